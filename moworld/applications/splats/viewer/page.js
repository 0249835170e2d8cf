// Shows the scene of this server with gsplat.js. The camera starts where the first camera of the video was and looks along its axis.
import * as SPLAT from "./gsplat.js";

const DISTANCE = 3; // units from the first camera to the point that the view turns about: the median distance of the splats
const canvas = document.getElementById("scene");
const status = document.getElementById("status");

try {
  const file = new URL("scene", location.href).href;
  const kind = await (await fetch("kind")).text();
  const scene = new SPLAT.Scene();
  const splat = kind === "ply" ? await SPLAT.PLYLoader.LoadAsync(file, scene) : await SPLAT.Loader.LoadAsync(file, scene);
  const places = splat.data.positions;
  const depths = [];
  for (let i = 2; i < places.length; i += 3) if (places[i] > 0) depths.push(Math.hypot(places[i - 2], places[i - 1], places[i]));
  depths.sort((a, b) => a - b);
  const scale = DISTANCE / (depths[depths.length >> 1] || 1);
  window.loaded = { count: splat.data.vertexCount, first: Array.from(places.slice(0, 3)), colours: Array.from(splat.data.colors.slice(0, 4)) };
  splat.scale = new SPLAT.Vector3(scale, scale, scale);
  splat.applyScale();

  const renderer = new SPLAT.WebGLRenderer(canvas);
  const camera = new SPLAT.Camera();
  const controls = new SPLAT.OrbitControls(camera, canvas, 0, 0, DISTANCE, true, new SPLAT.Vector3(0, 0, DISTANCE));
  const resize = () => {
    renderer.setSize(innerWidth, innerHeight);
    camera.data.fx = camera.data.fy = 0.5 * innerWidth; // 90 degrees wide, as the game's camera
  };
  addEventListener("resize", resize);
  resize();
  let frames = 0;
  const draw = () => {
    controls.update();
    renderer.render(scene, camera);
    window.drawn = ++frames;
    requestAnimationFrame(draw);
  };
  status.textContent = `${splat.data.vertexCount} splats. Drag to turn, right button to move, wheel to go closer.`;
  draw();
} catch (error) {
  status.textContent = `The scene could not be shown: ${error.message}`;
  window.failed = String(error);
}
