"use strict";

// The next pictures are asked for when the last ones are there, so a slow viewer sees fewer. All by one request:
// a browser has six connections for all its windows on this robot, and a STOP needs one.

function makeCameras(parent, names) {
  for (const name of names) {
    const figure = document.createElement("figure");
    figure.id = `camera-${name}`;
    const image = document.createElement("img");
    image.alt = `what the ${name} camera sees`;
    const caption = document.createElement("figcaption");
    caption.append(document.createElement("b"), document.createElement("span"));
    caption.firstChild.textContent = name;
    figure.append(image, caption);
    parent.append(figure);
  }
}

async function watchPictures(names, rateHz, over) {
  if (!names.length) return;
  const after = new URLSearchParams(names.map((name) => [name, "0"]));
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  while (!over()) {
    if (document.hidden) { await pause(500); continue; }
    const asked = performance.now();
    try {
      const response = await fetch(`/pictures?${after}`);
      if (response.status === 200) {
        const data = await response.blob();
        let start = 0;
        for (const [name, number, length] of JSON.parse(response.headers.get("X-Pictures"))) {
          const image = document.getElementById(`camera-${name}`).querySelector("img");
          const old = image.src;
          image.src = URL.createObjectURL(data.slice(start, start += length, "image/jpeg"));
          if (old) URL.revokeObjectURL(old);
          image.dataset.picture = String(number);
          after.set(name, String(number));
        }
      } else {
        await pause(300);
      }
    } catch {
      await pause(1000);
    }
    await pause(Math.max(0, 1000 / rateHz - (performance.now() - asked)));
  }
}
