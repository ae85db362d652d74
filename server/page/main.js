// The page as a whole: which part is shown, the key, what is served and whether it answers. The parts know each other
// through `app` alone.
import {getJson, hasKey, keyDialog, setKey} from "./api.js";
import {byId, num} from "./dom.js";
import {mark} from "./settings.js";
import {convergence} from "./convergence.js";
import {live} from "./live.js";
import {playground} from "./playground.js";
import {scoring} from "./scoring.js";

const HEALTH_MS = 5000;

const app = {
    model: null,
    onModel: [], // called with the model as GET /v1/models tells it, again when another is served
    onPart: [],  // called with the name of the part that is shown
    show(answer) {
        location.hash = "#convergence";
        app.convergence.show(answer);
    },
};

// --- Parts ---

const parts = [...document.querySelectorAll("main > section")].map(s => s.id);

function route(moved) {
    const part = parts.includes(location.hash.slice(1)) ? location.hash.slice(1) : parts[0];
    for (const name of parts) byId(name).hidden = name !== part;
    for (const a of document.querySelectorAll("nav a")) {
        if (a.hash === `#${part}`) a.setAttribute("aria-current", "page");
        else a.removeAttribute("aria-current");
    }
    document.title = `${byId(`${part}-title`).textContent} · deqd`;
    if (moved) {
        scrollTo(0, 0);
        byId("main").focus({preventScroll: true});
    }
    for (const f of app.onPart) f(part);
}

// --- The key ---

function askForKey(refused) {
    const dialog = byId("key-dialog"), input = byId("key");
    mark(input, byId("key-error"), refused ? "The server does not know this key." : "");
    byId("key-why").textContent = hasKey() || refused ? "Another key:" : "This server asks for a key.";
    byId("key-forget").hidden = !hasKey();
    input.value = "";
    if (!dialog.open) dialog.showModal();
    input.focus();
    return new Promise(resolve => {
        const end = new AbortController();
        const on = (node, event, f) => node.addEventListener(event, f, {signal: end.signal});
        const close = value => {
            end.abort();
            input.value = "";
            dialog.close();
            resolve(value);
        };
        on(byId("key-form"), "submit", e => {
            e.preventDefault();
            if (input.value.trim()) close(input.value.trim());
        });
        on(byId("key-cancel"), "click", () => close(null));
        on(byId("key-forget"), "click", () => {
            setKey("");
            close(null);
        });
        on(dialog, "cancel", e => {
            e.preventDefault();
            close(null);
        });
    });
}

keyDialog.ask = askForKey;
keyDialog.changed = () => { byId("key-button").textContent = hasKey() ? "API key: set" : "API key"; };
byId("key-button").addEventListener("click", async () => {
    const given = await askForKey(false);
    if (given === null) return;
    setKey(given);
    await loadModel();
});

// --- What is served ---

async function loadModel() {
    let list;
    try {
        list = await getJson("/v1/models");
    } catch {
        return; // not there yet, or no key was given: the next request says so where it is asked
    }
    const model = app.model = list.data[0], own = model.deqd;
    byId("model-line").textContent =
        `${model.id}: ${own.model_type}, ${num(own.parameters / 1e6)} million parameters in ${own.numeric_class}, ` +
        `solved by ${own.solver}${own.tol ? ` to ${num(own.tol)}` : ""}, window ${own.window}; ` +
        `fingerprint ${own.fingerprint}`;
    showState();
    for (const f of app.onModel) f(model);
}

let state = "starting";

function showState() {
    const text = state === "unreachable" ? "not reachable" : app.model ? `${app.model.id} · ${state}` : state;
    byId("status").dataset.state = state;
    if (byId("status-text").textContent !== text) byId("status-text").textContent = text;
}

// Open to everybody, so that no key is needed to see whether the server is there.
async function health() {
    const before = state;
    try {
        const response = await fetch("/health", {cache: "no-store", credentials: "omit"});
        ({state} = await response.json());
    } catch {
        state = "unreachable";
    }
    showState();
    if (before === "unreachable" && state !== "unreachable") loadModel();
}

// A page that nobody looks at asks nothing.
function everyNowAndThen() {
    if (document.visibilityState === "visible") health();
}

app.convergence = convergence(app);
playground(app);
scoring(app);
live(app);
addEventListener("hashchange", () => route(true));
route(false);
health();
loadModel();
setInterval(everyNowAndThen, HEALTH_MS);
document.addEventListener("visibilitychange", everyNowAndThen);
