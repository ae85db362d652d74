"""Tables of the chapters in models/, core/import and tests/ against what they are tables of: keys and tensors of the
format against the sources' tables, commands, exit codes, entries of imports, recipes, rooms of tests and fuzz targets
against what is there, flags and keys of recipes against what the program prints. A row too many fails as one too few
does."""
import glob
import json
import os
import re
import sys

from chapters import quoted, read, same, tables
from lib import DEQ, ROOT, check, equal, run

sys.path.append(os.path.join(ROOT, "tests", "tools"))
import printed

FORMAT, IMPORTS = "models/FORMAT.md", "core/import/README.md"
WORD = r'(NULL|"[^"]*"|\w+)'
OPTION = re.compile(r'\{"([\w.]+)", DEQ_OPT_\w+, AT\([^()]*\), [^,]+, [^,]+, %s,\s*%s,' % (WORD, WORD))


def table(path, heading, first=None):
    """The rows of the one table below this heading (whose head begins with `first`)."""
    rows = [r for h, head, r in tables(path) if h == heading and (not first or head[0] == first)]
    equal(len(rows), 1, "%s: tables below \"%s\"" % (path, heading))
    return rows[0]


# --- config.json ---

def words(text):
    """What the macros of choices stand for: those of headers, and a source's own."""
    text = "".join(read(p) for p in sorted(glob.glob("core/*/*.h", root_dir=ROOT))) + text
    return dict(re.findall(r'#define (\w+) "([^"]*)"', text))


def options(text, name):
    """{key: (default, choices)} of the options that a source has in `static const struct deq_opt NAME[]`."""
    body = re.search(r"struct deq_opt %s\[\] = \{\n(.*?)\n\};" % name, text, re.S)[1]
    found, choices = {}, words(text)
    for key, default, choice in OPTION.findall(body):
        choice = choice.strip('"') if choice.startswith('"') else choices.get(choice, "")
        found[key] = (None if default == "NULL" else default.strip('"'), choice)
    equal(len(found), body.count("DEQ_OPT_"), "rows of %s that are understood" % name)
    return found


def compare_options(rows, there, what):
    """Keys, defaults, and every word that a key may have."""
    same((quoted(r[0])[0] for r in rows), there, what)
    for key, default, meaning in rows:
        want, choices = there.get(quoted(key)[0], (default, ""))
        number = want is not None and re.fullmatch(r"[-+.e\d]+", want)
        equal(float(default) if number and re.fullmatch(r"[-+.e\d]+", default) else default,
              float(want) if number else "required" if want is None else want, "%s: %s: default" % (what, key))
        said = set(re.split(r"[^\w]+", " ".join(quoted(meaning))))
        equal(set(filter(None, choices.split("|"))) - said, set(), "%s: %s: words not told of" % (what, key))


def test_keys_of_every_model():
    text = read("core/cell/config.c")
    rows = table(FORMAT, "Keys of every model")
    tabled = {**options(text, "common"), **options(text, "segments")}
    asked = re.findall(r'deq_fields_(?:take|u32|u32s|bools?|open)\((?:f|outer), "(\w+)"', text)
    same((quoted(r[0])[0] for r in rows), {*tabled, *asked}, "config.json")
    compare_options([r for r in rows if quoted(r[0])[0] in tabled], tabled, "config.json")
    same((quoted(r[0])[0] for r in table(FORMAT, "`chat`: how a chat becomes text")),
         re.findall(r'deq_fields_text\(&f, "(\w+)"', text), "chat")
    said = "`deq`: how the model is solved"
    rows = table(FORMAT, said, "key")
    compare_options([r for r in rows if r[0] != "`presets`"], options(text, "serving"), "deq")
    check("`presets`" in [r[0] for r in rows] and 'deq_fields_open(&deq, "presets"' in text, "deq.presets")
    compare_options(table(FORMAT, said, "key of `deq.presets`"), options(text, "presets"), "deq.presets")


def test_keys_of_every_kind():
    for kind, source in (("transformer", "transformer"), ("trellis network", "trellis"),
                         ("looped transformer", "looped")):
        compare_options(table(FORMAT, "Keys of the " + kind),
                        options(read("core/cell/%s_weights.c" % source), "config"), kind)
    known = {json.loads(read(p))["model_type"] for p in glob.glob("tests/golden/tiny*/config.json", root_dir=ROOT)}
    rows = {quoted(r[0])[0]: r for r in table(FORMAT, "Keys of every model")}
    equal(set(quoted(rows["model_type"][2])), known, "kinds")


# --- Tensors ---

def documented_tensors(heading):
    """`.bias` stands for the name before it, with another end."""
    for row in table(FORMAT, heading, "tensor"):
        last = ""
        for name in quoted(row[0]):
            last = last[:last.rindex(".")] + name if name.startswith(".") else name
            yield last


def strings_of(text, function):
    body = re.search(r"^(?:static )?void %s\(.*?^}" % function, text, re.M | re.S)
    return re.findall(r'"([\w.%]+)"', body[0])


def test_tensors():
    vocabulary = read("core/cell/vocabulary.c")
    clusters = re.findall(r'put_cluster\(w, v, "(\w+)", "([\w.]+)"', vocabulary)
    names = {"%s.%s%s" % (what, c, kind) for what, kind in clusters for c in ("", "c.")}
    names |= {s for s in strings_of(vocabulary, "deq_vocabulary_walk") if s.startswith("head.")}
    same(documented_tensors("The vocabulary's two ends"), names, "tensors of the vocabulary")

    text = read("core/cell/transformer_weights.c")
    names = {"blocks.l." + s.removeprefix("blocks.%u.") for s in strings_of(text, "walk_block")}
    names |= set(strings_of(text, "walk"))
    same(documented_tensors("Tensors of the transformer"), names, "tensors of the transformer")

    names = {s.replace("%u", "j") for s in strings_of(read("core/cell/trellis_weights.c"), "walk")}
    same(documented_tensors("Tensors of the trellis network"), names, "tensors of the trellis network")

    text = read("core/cell/looped_weights.c")
    names = {s.replace("%s.%u.", "PART.i.").replace("norm.%u", "norm.n") for s in strings_of(text, "walk_layer")}
    names |= set(strings_of(text, "walk"))
    same(documented_tensors("Tensors of the looped transformer"), names, "tensors of the looped transformer")

    same(documented_tensors("The warm-start predictor"),
         strings_of(read("core/cell/predictor.c"), "deq_predictor_walk"), "tensors of the predictor")


# --- The rest of the format ---

def test_classes():
    same((quoted(r[0])[0] for r in table("models/README.md", "Numeric classes")),
         words("")["DEQ_CLASS_CHOICES"].split("|"), "numeric classes")


def test_tokenizer():
    files = set(glob.glob("core/text/tokenizer*.c", root_dir=ROOT)) - {"core/text/tokenizer_config.c"}
    sources = "".join(map(read, files))
    same((quoted(r[0])[0] for r in table(FORMAT, "`tokenizer.json`")),
         re.findall(r'json_object_get\(root, "(\w+)"', sources), "keys of tokenizer.json")


def test_golden_files():
    ways = re.search(r"} ways\[\] = {(.*?)};", read("core/score/golden_loops.c"), re.S)[1]
    rows = table(FORMAT, "Golden files of looped models")
    same({n.removesuffix("N") for r in rows for n in quoted(r[0])}, re.findall(r'"(\w+)"', ways), "golden tensors")


# --- Imports ---

def test_entries_of_imports():
    """What the sources look for in a checkpoint, by the words that entries' names are made of."""
    text = re.sub(r"^```.*?^```$", "", read(IMPORTS), flags=re.M | re.S)
    told = set(re.split(r"\W+", " ".join(quoted(text))))
    told |= {t.removesuffix("_raw") for t in told}
    entry = re.compile(r'"([\w.%]*)"')
    of = {"import_looped_weights.c": r"transformer\.|attn\.|mlp\.|norm_|raw_|value_embeds|lm_head|freqs_cis",
          "import_transformer.c": r"word_emb|crit\.|func\.|inject|pos_emb|\.[a-z]",
          "import_trellis.c": r"encoder\.|decoder\.|criterion\.|network\.|tnet\.|trellisnet\.|\w*_conv|func|deq"}
    for source, begin in of.items():
        names = {n for n in entry.findall(read("core/import/" + source)) if re.match(begin, n)}
        check(len(names) >= 10, "%s: %d names" % (source, len(names)))
        for name in sorted(names):
            parts = {p for p in re.split(r"[.%]+", name) if p and p not in ("u", "s", "0", "weight", "bias")}
            equal(parts - told, set(), "%s: %s is not told of" % (IMPORTS, name))
    _, out, _ = run([DEQ, "import", "--help"])
    kinds = re.search(r"model_type is one of\n(.*?)\.\n", out, re.S)[1].replace("\n", " ").split(", ")
    rows = table("models/README.md", "Serve a checkpoint of the DEQ authors' code")
    same((k for r in rows for k in quoted(r[0])), kinds, "model_type of a checkpoint")
    equal([k for k in kinds if "`%s`" % k not in text], [], "kinds not told of")


# --- The command line and recipes ---

def test_commands():
    want = [["[`deq %s`](#deq-%s)" % (name, name), about] for name, about in printed.listed().items()]
    equal(table(printed.CLI, "The command line"), want, "commands")
    codes = re.findall(r"= (\d)", re.search(r"enum { CLI_OK.*", read("models/cli/cli.h"))[0])
    equal([r[0] for r in table(printed.CLI, "Exit codes")], codes, "exit codes")
    equal(list(printed.listed(section="Exit status")), codes, "exit codes of --help")
    equal([[quoted(n)[0], m] for n, m in table(printed.CLI, "Environment")],
          [list(v) for v in printed.listed(section="Environment").items()], "variables")
    for args, code in (([DEQ, "--version"], 0), ([DEQ, "inspect", "/nowhere"], 1), ([DEQ, "inspect"], 2)):
        equal(run(args)[0], code, "exit code of %s" % args[1:])


def test_what_programs_print():
    """Run `python3 tests/tools/printed.py` where it differs."""
    for path, found in printed.made():
        text = read(path)
        check(printed.fill(text, found) == text,
              "%s is not what `python3 tests/tools/printed.py` writes of this program" % path)


def test_recipes():
    rows = [r for h, head, r in tables(printed.RECIPES) if head[0] == "recipe"]
    same((quoted(r[0])[0] for r in rows[0]),
         [os.path.basename(p) for p in glob.glob("models/recipes/*.yaml", root_dir=ROOT)], "recipes")
    grads = re.search(r'"train.grad", grad, "implicit", "([^"]*)"', read("core/train/recipe.c"))[1]
    same((quoted(r[0])[0] for r in table(printed.RECIPES, "How the gradient is taken")), grads.split("|"), "train.grad")


def test_messages():
    sources = "".join(read(p) for p in glob.glob("core/train/*.c", root_dir=ROOT))
    sources = re.sub(r'"\s*"', "", sources)
    shown = [c for r in table(printed.RECIPES, "What goes wrong") for c in quoted(r[0]) if " " in c]
    check(len(shown) >= 5, "messages: %s" % shown)
    equal([p for c in shown for p in c.split("...") if p.strip() not in sources], [], "messages that nobody writes")


def test_fields_of_the_log():
    source = read("models/cli/cmd_train.c")
    events = re.findall(r'"{\\"event\\": \\"(\w+)\\"', source)
    log = {head[0]: rows for h, head, rows in tables(printed.RECIPES) if h == "Watch it"}
    same(log, ["field of `%s`" % e for e in events], "events of train.jsonl")
    for event in events:
        text = re.search(r'"{\\"event\\": \\"%s\\"(.*?)}"' % event, source, re.S)[1]
        fields = set(re.findall(r'\\"(\w+)\\":', text)) - {"step"}
        fields |= {"predictor_error"} if event == "step" and '\\"predictor_error\\"' in source else set()
        same((f for r in log.get("field of `%s`" % event, []) for f in quoted(r[0])), fields, "fields of " + event)


# --- Tests ---

def test_rooms_and_fuzz_targets():
    rooms = {r.strip("/").split("/")[0] for row in table("tests/README.md", "What lies where") for r in quoted(row[0])}
    here = os.path.join(ROOT, "tests")
    there = {n for n in os.listdir(here) if os.path.isdir(os.path.join(here, n)) and n != "__pycache__"}
    equal((rooms - there, there - rooms), (set(), set()), "rooms of tests/")
    same((t for row in table("tests/README.md", "Fuzzing") for t in quoted(row[0])),
         [os.path.basename(p)[5:-2] for p in glob.glob("tests/fuzz/fuzz_*.c", root_dir=ROOT)], "fuzz targets")
