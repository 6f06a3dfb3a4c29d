"""aiohttp on both ends. In: "serve ADDRESS PORT", which prints "ready" and then METHOD PATH STATUS of each answer; or
"ask URL COUNT", which gets COUNT times /hello, /none/ITS-NUMBER and posts to /upload, four at a time on kept connections."""
import asyncio
import sys

from aiohttp import ClientSession, TCPConnector, web


async def hello(_):
    return web.Response(text="hello")


async def upload(request):
    return web.Response(status=201, text=str(len(await request.read())))


@web.middleware
async def log(request, handler):
    try:
        answer = await handler(request)
    except web.HTTPException as error:
        answer = error
    print(request.method, request.path, answer.status, flush=True)
    return answer


async def serve(address, port):
    app = web.Application(middlewares=[log])
    app.add_routes([web.get("/hello", hello), web.post("/upload", upload)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, address, int(port)).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def ask(url, count):
    async with ClientSession(connector=TCPConnector(limit=4)) as session:

        async def one(number):
            for method, path, body in [
                ("GET", "/hello", None),
                ("GET", f"/none/{number}", None),
                ("POST", "/upload", b"x" * 100_000),
            ]:
                async with session.request(method, url + path, data=body) as answer:
                    await answer.read()

        await asyncio.gather(*(one(number) for number in range(int(count))))


asyncio.run({"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:]))
