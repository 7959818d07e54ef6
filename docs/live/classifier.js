// Draw or pick a picture, and see what the cnn says of it.

import { Drawing } from "./drawing.js";
import { announce, latest, paint, softmax } from "./tools.js";
import { className, number, percent, text } from "./strings.js";

// Fills *root*; returns a function from the pixels of a square image (0 to 255) and its side to {name, p}, the likeliest
// class of its middle; undefined where the image is smaller than the model's, or twice its size.
export async function classifier(root, model, facts, samples) {
  const [, height, width] = facts.shape;
  const size = height * width;
  const names = facts.classes.map(className);
  const sample = (i) => samples.subarray(i * size, (i + 1) * size);
  const nth = (i) => facts.samples.slice(0, i + 1).filter((label) => label === facts.samples[i]).length;

  root.innerHTML = `
    <fieldset class="live-samples"><legend>${text.pick}</legend>
      ${facts.samples.map((label, i) => `<label title="${names[label]}">
        <input type="radio" name="live-sample" value="${i}" aria-label="${text.sample(names[label], nth(i))}">
        <canvas width="${width}" height="${height}"></canvas></label>`).join("")}
    </fieldset>
    <div class="live-columns">
      <div>
        <div class="live-board">
          <canvas width="${width}" height="${height}" tabindex="0" role="application" aria-label="${text.canvas}"></canvas>
          <span class="live-pen" aria-hidden="true"></span>
        </div>
        <div class="live-controls">
          <label>${text.brush} <input type="range" class="live-brush" min="1" max="4" step="0.5" value="2"></label>
          <button type="button" class="live-eraser" aria-pressed="false">${text.eraser}</button>
          <button type="button" class="live-clear">${text.clear}</button>
          <button type="button" class="live-invert">${text.invert}</button>
        </div>
        <p class="live-note">${text.keys}</p>
      </div>
      <div>
        <p class="live-verdict"><strong></strong> <span></span></p>
        <ol class="live-bars" role="list" aria-label="${text.probabilities}">
          ${names.map((name) => `<li><span>${name}</span><span class="live-bar"></span><span></span></li>`).join("")}
        </ol>
        <p class="live-note">${text.card({
          ...facts,
          parameters: number(facts.parameters),
          megabytes: number(facts.bytes / 1e6, { maximumFractionDigits: 2 }),
          accuracy: number(facts.accuracy, { minimumFractionDigits: 4 }),
          tested: number(facts.tested),
        })}</p>
      </div>
    </div>`;

  const find = (selector) => root.querySelector(selector);
  const radios = [...root.querySelectorAll("input[type=radio]")];
  const rows = [...root.querySelectorAll(".live-bars li")];
  const probabilities = async (pixels) =>
    softmax(await model(Float32Array.from(pixels, (value) => value / 255), [1, ...facts.shape]));

  const show = latest(async () => {
    const p = await probabilities(drawing.pixels);
    const best = p.indexOf(Math.max(...p));
    rows.forEach((row, i) => {
      row.style.setProperty("--p", p[i]);
      row.lastElementChild.textContent = percent(p[i]);
      row.classList.toggle("live-best", i === best);
    });
    const picked = radios.find((radio) => radio.checked)?.value;
    const label = facts.samples[picked];
    const remark = picked === undefined ? "" : text.labelled(names[label], label === best);
    find(".live-verdict strong").textContent = text.verdict(names[best], percent(p[best]));
    find(".live-verdict span").textContent = drawing.pixels.some(Boolean) ? remark : text.empty;
    announce(find(".live-verdict").textContent);
  });

  const drawing = new Drawing(find(".live-board"), () => {
    for (const radio of radios) radio.checked = false; // it is no longer the test image
    return show();
  });
  const pick = (i) => {
    drawing.pixels.set(sample(i));
    drawing.paint();
    return show();
  };

  radios.forEach((radio, i) => {
    paint(radio.nextElementSibling, sample(i));
    radio.addEventListener("change", () => pick(i));
  });
  const eraser = find(".live-eraser");
  eraser.addEventListener("click", () => {
    drawing.erasing = !drawing.erasing;
    eraser.setAttribute("aria-pressed", drawing.erasing);
  });
  find(".live-brush").addEventListener("input", (event) => (drawing.radius = Number(event.target.value)));
  find(".live-clear").addEventListener("click", () => drawing.change(() => 0));
  find(".live-invert").addEventListener("click", () => drawing.change((value) => 255 - value));

  radios[0].checked = true;
  await pick(0);
  return async (pixels, side) => {
    if (side < Math.max(height, width) || side >= 2 * Math.min(height, width)) return undefined;
    const [top, left] = [Math.floor((side - height) / 2), Math.floor((side - width) / 2)];
    const middle = pixels.filter((_, i) => {
      const [y, x] = [Math.floor(i / side) - top, (i % side) - left];
      return y >= 0 && y < height && x >= 0 && x < width;
    });
    const p = await probabilities(middle);
    const best = p.indexOf(Math.max(...p));
    return { name: names[best], p: p[best] };
  };
}
