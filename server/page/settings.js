// Fields of a request: what is left empty is left out, so that the request says what was asked for and no more. What is
// wrong with a value the server says, and it is shown where the field is.
import {el} from "./dom.js";

const number = text => /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : text;
const whole = text => /^-?\d{16,}$/.test(text) ? text : number(text);
const lines = text => text.split("\n").filter(Boolean).map(s => s.replaceAll("\\n", "\n"));
const sameText = text => text;

// name: the field's path in the request; choices: of a list, the first being the model's own.
export const FIELDS = {
    max_tokens: {label: "Max tokens", read: number, hint: "Length of the answer", value: "80"},
    temperature: {label: "Temperature", read: number, hint: "0: always the likeliest token", value: "0.8"},
    top_p: {label: "Top-p", read: number, hint: "Among the likeliest tokens of this sum", holder: "1"},
    seed: {label: "Seed", read: whole, hint: "The same one, the same text", holder: "random"},
    stop: {
        label: "Stop texts", read: lines, area: true, hint: "One a line; \\n stands for a line’s end", holder: "none",
    },
    "deq.tol": {label: "Tolerance", read: number, hint: "A state that moves less is final"},
    "deq.solver": {
        label: "Solver", read: sameText, choices: ["picard", "anderson", "broyden"],
        hint: "How the root is sought",
    },
    "deq.window": {label: "Window", read: number, hint: "Positions solved at once"},
    "deq.warm_start": {
        label: "Start", read: sameText, choices: ["zero", "previous", "predictor", "proposal"],
        hint: "Where iterates begin",
    },
    "deq.max_iter": {label: "Max evaluations", read: number, hint: "Of one position"},
    cache: {
        label: "Prefix cache", read: sameText, choices: ["exact", "approximate", "off"], own: "exact",
        hint: "Of beginnings solved before",
    },
};

// message "": nothing is wrong with it (any more).
export function mark(input, error, message) {
    error.textContent = message;
    if (message) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
}

let ids = 0;

// One field: its node, its value, its error.
class Field {
    constructor(name, preset) {
        const f = FIELDS[name], id = `field${ids++}`;
        const about = {id, name, "aria-describedby": `${id}h ${id}e`, autocomplete: "off", spellcheck: "false"};
        this.name = name;
        this.read = f.read;
        this.input = f.choices ? el("select", about, el("option", {value: ""}, f.own ?? "model’s own"),
                                    f.choices.filter(c => c !== f.own).map(c => el("option", {value: c}, c)))
            : el(f.area ? "textarea" : "input",
                 {...about, placeholder: f.holder, rows: f.area && 1, inputmode: f.area ? null : "decimal"});
        this.input.value = preset ?? f.value ?? "";
        this.error = el("p", {class: "error", id: `${id}e`});
        this.node = el("div", {class: "field"}, el("label", {for: id}, f.label), this.input,
                       el("p", {class: "hint", id: `${id}h`}, f.hint), this.error);
        this.input.addEventListener("input", () => this.fail(""));
    }

    fail(message) {
        mark(this.input, this.error, message);
    }
}

export class Settings {
    // names: of FIELDS; presets: {name: text}
    constructor(names, presets = {}) {
        this.fields = names.map(name => new Field(name, presets[name]));
    }

    nodes(...names) {
        return this.fields.filter(f => !names.length || names.includes(f.name)).map(f => f.node);
    }

    get(name) {
        return this.fields.find(f => f.name === name);
    }

    set(values) {
        for (const f of this.fields)
            if (f.name in values) {
                f.input.value = values[f.name];
                f.fail("");
            }
    }

    // Adds what is filled in to the request.
    into(request) {
        for (const {name, input, read} of this.fields) {
            const text = input.tagName === "TEXTAREA" ? input.value : input.value.trim();
            if (text === "") continue;
            const path = name.split("."), last = path.pop();
            let at = request;
            for (const step of path) at = at[step] ??= {};
            at[last] = read(text);
        }
        return request;
    }

    // What the model would do by itself stands in the empty field.
    own(model) {
        const own = model.deqd;
        const texts = {"deq.tol": own.tol || "none", "deq.window": own.window, "deq.max_iter": own.max_iter};
        for (const [name, value] of Object.entries(texts)) {
            const f = this.get(name);
            if (f) f.input.placeholder = value;
        }
        for (const name of ["solver", "warm_start"]) {
            const f = this.get(`deq.${name}`);
            if (!f) continue;
            // once in the list, as what is left out of the request
            for (const option of f.input.options) option.hidden = option.value === own[name];
            f.input.options[0].textContent = own[name];
        }
    }

    clear() {
        for (const f of this.fields) f.fail("");
    }

    // True: the error is about one of these fields, and is shown there.
    fail(error) {
        const f = error.param && this.fields.find(x => error.param === x.name || error.param.startsWith(`${x.name}[`));
        if (!f) return false;
        f.fail(error.message);
        const closed = f.node.closest("details:not([open])");
        if (closed) closed.open = true;
        f.input.focus();
        return true;
    }
}

// What an error is about that is none of the fields: said once, aloud.
export function showError(node, error) {
    const retry = error.retryAfterMs ? ` Try again in ${Math.ceil(error.retryAfterMs / 1000)} s.` : "";
    node.textContent = error.message + retry;
    node.hidden = false;
}

export function hideError(node) {
    node.textContent = "";
    node.hidden = true;
}

// The button that starts and, while it runs, stops. work(signal): a promise.
export function startStop(button, work) {
    const start = button.textContent;
    let abort = null;
    const run = async () => {
        if (abort) return abort.abort();
        abort = new AbortController();
        button.textContent = "Stop";
        button.classList.add("running");
        try {
            await work(abort.signal);
        } finally {
            abort = null;
            button.textContent = start;
            button.classList.remove("running");
        }
    };
    button.addEventListener("click", run);
    return {run, stop: () => abort?.abort(), running: () => abort !== null};
}
