// Loads the models and starts the page's two programs; where that fails, the page's pictures stay.
//
// The files beside this one come from scripts/make_live.py: onnxruntime-web, the models, and their data. WebAssembly
// runs in one thread: more need headers (COOP, COEP) that GitHub Pages does not send.

import { classifier } from "./classifier.js";
import { generator } from "./generator.js";
import { text } from "./strings.js";

const here = new URL(".", import.meta.url);
const status = document.getElementById("live-status");

async function get(name, type) {
  const response = await fetch(new URL(name, here));
  if (!response.ok) throw new Error(`${name}: ${response.status}`);
  return response[type]();
}

// A model as a function: Float32Array and its shape -> Float32Array of the output.
async function load(ort, name) {
  const session = await ort.InferenceSession.create(new Uint8Array(await get(name, "arrayBuffer")));
  const [input, output] = [session.inputNames[0], session.outputNames[0]];
  return async (values, shape) => (await session.run({ [input]: new ort.Tensor("float32", values, shape) }))[output].data;
}

async function start() {
  const begin = performance.now();
  const ort = await import("./ort.wasm.bundle.min.mjs");
  ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", here).href };
  ort.env.wasm.numThreads = 1;
  const [facts, samples, noise, directions] = await Promise.all([
    get("live.json", "json"),
    get("samples.bin", "arrayBuffer"),
    get("noise.bin", "arrayBuffer"),
    get("directions.bin", "arrayBuffer"),
  ]);
  const cnn = await load(ort, "cnn.onnx"); // one after the other: the first creation starts the runtime
  const dcgan = await load(ort, "dcgan.onnx");
  const classify = await classifier(document.getElementById("live-cnn"), cnn, facts.cnn, new Uint8Array(samples));
  const tensors = { noise: new Float32Array(noise), directions: new Float32Array(directions) };
  await generator(document.getElementById("live-dcgan"), dcgan, facts.dcgan, tensors, classify);
  for (const picture of document.querySelectorAll(".live-picture")) picture.hidden = true;
  return Math.round(performance.now() - begin);
}

function say(state, message) {
  status.dataset.state = state;
  status.textContent = message;
}

if (typeof WebAssembly === "undefined") {
  say("pictures", text.noWasm);
} else {
  say("loading", text.loading);
  start().then(
    (ms) => say("ready", text.ready(ms)),
    (error) => {
      for (const id of ["live-cnn", "live-dcgan"]) document.getElementById(id).replaceChildren();
      say("pictures", text.failed(error.message));
    },
  );
}
