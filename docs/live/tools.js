// Small things that both programs use.

// Shows grey pixels, 0 to 255, on a canvas of as many.
export function paint(canvas, pixels) {
  const image = new ImageData(canvas.width, canvas.height);
  pixels.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// *work* so that it never runs twice at a time: asked for while it runs, it runs once more afterwards, on what is then there.
export function latest(work) {
  let running;
  let again = false;
  return () => {
    again = true;
    running ??= (async () => {
      try {
        while (again) {
          again = false;
          await work();
        }
      } finally {
        running = undefined;
      }
    })();
    return running;
  };
}

export function softmax(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

// Says *message* to screen readers, once nothing newer has come for a moment.
let timer;
export function announce(message) {
  clearTimeout(timer);
  timer = setTimeout(() => (document.getElementById("live-says").textContent = message), 700);
}
