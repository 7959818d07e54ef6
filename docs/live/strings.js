// What the page's two programs say. The prose around them is in live.md, and translated with the rest of the site.

const en = {
  loading: "Loading the models …",
  ready: (ms) => `The models run in this browser; loaded in ${ms} ms.`,
  noWasm: "This browser does not run WebAssembly, so here are pictures instead.",
  failed: (error) => `The models could not be loaded, so here are pictures instead. (${error})`,
  card: (cnn) => `${cnn.name}: ${cnn.parameters} parameters, ${cnn.megabytes} MB, accuracy ${cnn.accuracy} on ${cnn.tested} test images`,
  generatorCard: (dcgan) => `${dcgan.name}: ${dcgan.parameters} parameters, an image from ${dcgan.latent} numbers`,
  pick: "Pick a test image",
  sample: (label, n) => `${label}, image ${n}`,
  canvas: "The picture, 28 by 28. Arrow keys move the pen, space paints, Shift with an arrow key paints a line, Backspace erases.",
  keys: "Mouse or finger draws. Keys: arrows move, space paints, Shift+arrow draws a line, Backspace erases.",
  brush: "Pen",
  eraser: "Eraser",
  clear: "Clear",
  invert: "Invert",
  verdict: (name, percent) => `${name}, ${percent}`,
  labelled: (name, right) => right ? `The data say so too: ${name}.` : `The data say: ${name}.`,
  empty: "The picture is empty; the network names a class all the same.",
  probabilities: "Probability of each class",
  garment: "Garment",
  of: (n) => `of 0 to ${n}`,
  next: "Next garment",
  zero: "Sliders to 0",
  direction: (i) => `Direction ${i}`,
  image: "The generated image",
  takenFor: (name, percent) => `The cnn takes it for: ${name}, ${percent}`,
};

const zh = {
  loading: "正在加载模型……",
  ready: (ms) => `模型正在此浏览器中运行；加载用时 ${ms} 毫秒。`,
  noWasm: "此浏览器不支持 WebAssembly，下面以图片代替。",
  failed: (error) => `模型加载失败，下面以图片代替。（${error}）`,
  card: (cnn) => `${cnn.name}：${cnn.parameters} 个参数，${cnn.megabytes} MB，在 ${cnn.tested} 张测试图像上的准确率为 ${cnn.accuracy}`,
  generatorCard: (dcgan) => `${dcgan.name}：${dcgan.parameters} 个参数，由 ${dcgan.latent} 个数生成一张图像`,
  pick: "选一张测试图像",
  sample: (label, n) => `${label}，第 ${n} 张`,
  canvas: "28×28 的画布。方向键移动画笔，空格键绘制，Shift 加方向键画线，退格键擦除。",
  keys: "可用鼠标或手指绘制。键盘：方向键移动，空格键绘制，Shift+方向键画线，退格键擦除。",
  brush: "笔的粗细",
  eraser: "橡皮",
  clear: "清空",
  invert: "反色",
  verdict: (name, percent) => `${name}，${percent}`,
  labelled: (name, right) => right ? `数据集的标签也是：${name}。` : `数据集的标签是：${name}。`,
  empty: "画布是空的；网络照样会给出一个类别。",
  probabilities: "各类别的概率",
  garment: "编号",
  of: (n) => `范围 0 到 ${n}`,
  next: "换一件",
  zero: "滑块归零",
  direction: (i) => `方向 ${i}`,
  image: "生成的图像",
  takenFor: (name, percent) => `cnn 认为它是：${name}，${percent}`,
  classes: {
    "T-shirt/top": "T恤/上衣",
    Trouser: "裤子",
    Pullover: "套头衫",
    Dress: "连衣裙",
    Coat: "外套",
    Sandal: "凉鞋",
    Shirt: "衬衫",
    Sneaker: "运动鞋",
    Bag: "包",
    "Ankle boot": "短靴",
  },
};

const language = document.documentElement.lang;
export const text = language.startsWith("zh") ? zh : en;
export const className = (name) => text.classes?.[name] ?? name;
export const number = (value, options) => new Intl.NumberFormat(language || "en", options).format(value);
// Per cent to one digit; what rounds to all is not all.
export function percent(p) {
  const options = { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 };
  return p < 0.9995 ? number(p, options) : `> ${number(0.999, options)}`;
}
