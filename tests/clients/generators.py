#!/usr/bin/env python3
"""Clients that generators make of /openapi.json: each is generated from what the daemon serves, compiled, and
completes, streams, scores, chats and is refused (generated/ has their programs); what they got is what plain HTTP gets.
The tools are put in place by run.sh; what is not there is skipped."""
import json
import os
import shutil
import subprocess
import sys

from clients import main, scratch

from lib import Daemon, check, equal, note

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "generated")
TOOLS = os.path.dirname(sys.executable)
NODE = os.environ.get("GENERATORS_NODE", "")
GREEDY = {"prompt": "ROMEO:", "max_tokens": 12, "temperature": 0}
TSC = ["--strict", "--target", "es2022", "--module", "nodenext", "--outDir", "out"]


def step(what, argv, dir, **env):
    """Its output, or None; a step that fails says what it printed."""
    p = subprocess.run(argv, cwd=dir, env=dict(os.environ, **env), stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=600)
    if check(p.returncode == 0, "%s: exit code %d\n%s" % (what, p.returncode, (p.stdout + p.stderr)[-3000:])):
        return p.stdout
    return None


def room(name):
    """An empty directory, and in it the document as it is served."""
    dir = scratch("generators", name)
    shutil.rmtree(dir)
    os.mkdir(dir)
    with open(os.path.join(dir, "openapi.json"), "wb") as f:
        f.write(daemon().request("GET", "/openapi.json")[2])
    return dir


_daemon = []


def daemon():
    if not _daemon:
        _daemon.append(Daemon("chat.message={role}: {content}\\n", "sampling.seed=random"))
    return _daemon[0]


def url():
    return "http://%s:%d" % (daemon().host, daemon().port)


def compare(name, out, refused="max_tokens"):
    """What the client printed with what HTTP says; Go reads numbers as float32: scores agree within two of its
    units."""
    if out is None:
        return
    d, got = daemon(), json.loads(out)
    text = d.complete(**GREEDY)["choices"][0]["text"]
    scored = d.complete("ROMEO:", max_tokens=0, echo=True, logprobs=1)["choices"][0]
    scores = scored["logprobs"]["token_logprobs"]
    hello = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
    chat = d.post("/v1/chat/completions", hello)[2]["choices"][0]["message"]["content"]
    equal((got["text"], got["streamed"]), (text, text), name + ": completes, and streams the same")
    check(len(got["scores"]) == len(scores) > 2 and got["scores"][0] is None and
          all(abs(a - b) <= 2**-22 * abs(b) for a, b in zip(got["scores"][1:], scores[1:])),
          "%s: scores %s" % (name, got["scores"]))
    equal((got["chat"], got["refused"]), (chat, refused), name + ": chats, and names the field that is refused")
    check(0 <= got["seed"] < 2**53, "%s: the seed that was drawn: %s" % (name, got["seed"]))


def generate(name, dir, generator, *flags):
    tool = os.path.join(TOOLS, "openapi-generator-cli")
    argv = [tool, "generate", "-i", "openapi.json", "-g", generator, "-o", "generated", *flags]
    return step(name, argv, dir, JAVA_OPTS="-Xmx512m") is not None


def program(dir, name, as_=None):
    shutil.copy(os.path.join(HERE, name), os.path.join(dir, as_ or name))


def test_openapi_python_client():
    dir = room("openapi-python-client")
    tool = os.path.join(TOOLS, "openapi-python-client")
    argv = [tool, "generate", "--path", "openapi.json", "--meta", "none", "--output-path", "deqd_client"]
    out = step("openapi-python-client", argv, dir)
    check(out is not None and "will not be generated" not in out, "every operation is generated: %s" % out)
    program(dir, "httpx_client.py")
    compare("openapi-python-client", step("its client", [sys.executable, "httpx_client.py", url()], dir))


def test_openapi_generator_python():
    dir = room("openapi-generator-python")
    if generate("openapi-generator, Python", dir, "python"):
        program(dir, "urllib3_client.py")
        compare("openapi-generator, Python", step("its client", [sys.executable, "urllib3_client.py", url()], dir,
                PYTHONPATH=os.path.join(dir, "generated")), refused="suffix")  # ranges it refuses itself


def typescript(dir, name):
    with open(os.path.join(dir, "package.json"), "w") as f:
        f.write('{"type": "module"}\n')
    os.symlink(os.path.join(NODE, "node_modules"), os.path.join(dir, "node_modules"))
    program(dir, name)
    if step(name + " type-checks", ["node_modules/.bin/tsc", *TSC, name], dir) is not None:
        compare(name, step(name, ["node", "out/" + name.replace(".ts", ".js"), url()], dir))


def test_openapi_generator_typescript():
    if not NODE:
        return note("skipped", "no Node.js")
    dir = room("openapi-generator-typescript")
    if generate("openapi-generator, TypeScript", dir, "typescript-fetch", "-p", "importFileExtension=.js"):
        typescript(dir, "fetch_client.ts")


def test_openapi_typescript():
    if not NODE:
        return note("skipped", "no Node.js")
    dir = room("openapi-typescript")
    os.mkdir(os.path.join(dir, "generated"))
    tool = os.path.join(NODE, "node_modules", ".bin", "openapi-typescript")
    if step("openapi-typescript", [tool, "openapi.json", "-o", "generated/schema.d.ts"], dir) is not None:
        typescript(dir, "openapi_fetch_client.ts")


def test_openapi_generator_go():
    if not shutil.which("go"):
        return note("skipped", "no Go")
    dir = room("openapi-generator-go")
    if generate("openapi-generator, Go", dir, "go", "-p", "withGoMod=false,packageName=deqd",
                "--global-property", "apis,models,supportingFiles,apiTests=false,modelTests=false,"
                "apiDocs=false,modelDocs=false"):
        program(dir, "go_client.go", "main.go")
        with open(os.path.join(dir, "go.mod"), "w") as f:
            f.write("module deqd.example\n\ngo 1.18\n")
        compare("openapi-generator, Go", step("its client", ["go", "run", ".", url()], dir,
                GOCACHE=scratch("generators-go-cache"), GOTOOLCHAIN="local", GOPROXY="off"))


def test_stop():
    daemon().stop()


if __name__ == "__main__":
    main("generated clients")
