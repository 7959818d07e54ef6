// Move sliders along directions in the noise, and see the image that the dcgan makes of it.

import { announce, latest, paint } from "./tools.js";
import { number, percent, text } from "./strings.js";

const REACH = 5;

export async function generator(root, model, facts, { noise, directions }, classify) {
  const { latent, side } = facts;
  const sliders = Array.from({ length: facts.directions }, (_, i) => `
    <label>${text.direction(i + 1)}
      <input type="range" min="${-REACH}" max="${REACH}" step="0.1" value="0"><span></span></label>`);
  root.innerHTML = `
    <div class="live-columns">
      <div>
        <div class="live-board"><canvas width="${side}" height="${side}" role="img" aria-label="${text.image}"></canvas></div>
        <p class="live-verdict"></p>
      </div>
      <div>
        <div class="live-controls">
          <label>${text.garment} <input type="number" min="0" max="${facts.garments - 1}" value="0"></label>
          <span class="live-note">${text.of(facts.garments - 1)}</span>
          <button type="button" class="live-next">${text.next}</button>
          <button type="button" class="live-zero">${text.zero}</button>
        </div>
        <div class="live-sliders">${sliders.join("")}</div>
        <p class="live-note">${text.generatorCard({ ...facts, parameters: number(facts.parameters) })}</p>
      </div>
    </div>`;

  const find = (selector) => root.querySelector(selector);
  const garment = find("input[type=number]");
  const ranges = [...root.querySelectorAll("input[type=range]")];

  // The noise of the garment, moved by each slider along its direction.
  const point = () => {
    const start = Number(garment.value) * latent;
    return noise.slice(start, start + latent).map((value, j) =>
      ranges.reduce((sum, range, i) => sum + Number(range.value) * directions[i * latent + j], value));
  };

  const show = latest(async () => {
    const values = await model(point(), [1, latent]);
    const pixels = Uint8ClampedArray.from(values, (value) => (value + 1) * 127.5); // [-1, 1] -> 0 to 255, rounded
    paint(find("canvas"), pixels);
    for (const range of ranges) range.nextElementSibling.textContent = number(range.value, { minimumFractionDigits: 1 });
    const seen = await classify(pixels, side);
    find(".live-verdict").textContent = seen ? text.takenFor(seen.name, percent(seen.p)) : "";
    announce(find(".live-verdict").textContent);
  });
  const zero = () => {
    for (const range of ranges) range.value = 0;
    return show();
  };
  const choose = (k) => {
    garment.value = ((k % facts.garments) + facts.garments) % facts.garments;
    return zero();
  };

  for (const range of ranges) range.addEventListener("input", show);
  garment.addEventListener("change", () => choose(Math.round(garment.valueAsNumber) || 0));
  find(".live-next").addEventListener("click", () => choose(garment.valueAsNumber + 1));
  find(".live-zero").addEventListener("click", zero);
  await choose(0);
}
