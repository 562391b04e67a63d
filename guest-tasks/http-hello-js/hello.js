// `http-hello` in JavaScript: answers `hello` and returns the request's `x-request-id`.
//
// componentize-js calls the listener for each request, as a service worker's.

function answer(request) {
  const headers = { "content-type": "text/plain; charset=utf-8" };
  const id = request.headers.get("x-request-id");
  if (id !== null) headers["x-request-id"] = id;
  return new Response("hello\n", { headers });
}

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));
