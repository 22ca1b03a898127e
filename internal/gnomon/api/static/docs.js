"use strict";
window.addEventListener("load", () => {
  window.ui = SwaggerUIBundle({
    url: document.getElementById("swagger-ui").dataset.document,
    dom_id: "#swagger-ui",
    deepLinking: true,
    persistAuthorization: false, // a key stays in the page that it was given to
    validatorUrl: null, // the default asks a server on the internet
  });
});
