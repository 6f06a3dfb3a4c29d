// The same requests as same.go and same.py, with node.
//
// serve ADDRESS:PORT: serves with key.pem and cert.pem of the folder it runs in.
// ask ADDRESS:PORT VERSION REQUEST...: posts, on one connection in HTTP 1.1 or 2, or 2 in clear and without a body (2c);
// prints the statuses.
const fs = require("fs");
const http2 = require("http2");
const https = require("https");

const [what, address, version, ...paths] = process.argv.slice(2);

function serve() {
  const options = { key: fs.readFileSync("key.pem"), cert: fs.readFileSync("cert.pem"), allowHTTP1: true };
  const answer = (request, response) => request.resume().on("end", () => response.end("answer"));
  const [host, port] = address.split(":");
  http2.createSecureServer(options, answer).listen(port, host, () => console.log("ready"));
}

function ask1(agent, path) {
  const [host, port] = address.split(":");
  const options = { host, port, path, agent, method: "POST", rejectUnauthorized: false };
  return new Promise((resolve, reject) => {
    const request = https.request(options, (response) =>
      response.resume().on("end", () => resolve(response.statusCode)));
    request.on("error", reject).end("question");
  });
}

function ask2(session, path) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ":method": "POST", ":path": path });
    let status;
    stream.on("response", (headers) => (status = headers[":status"]));
    stream.on("end", () => resolve(status)).on("error", reject).resume();
    version === "2c" ? stream.end() : stream.end("question");
  });
}

async function ask() {
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
  const scheme = version === "2c" ? "http" : "https";
  const session = version !== "1.1" && http2.connect(`${scheme}://${address}`, { rejectUnauthorized: false });
  const statuses = [];
  for (const path of paths) {
    statuses.push(await (session ? ask2(session, path) : ask1(agent, path)));
  }
  console.log(...statuses);
  session ? session.close() : agent.destroy();
}

what === "serve" ? serve() : ask();
