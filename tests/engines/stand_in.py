"""What the stand-ins for vLLM and transformers share: they take exactly the flags of the real programs (the *.flags beside this
file), want the weights in the local Hugging Face cache as the real ones do offline, and then answer OpenAI's API with words of
their own. A model may bring a misfortune: `"stand_in": {"loading": [line, ...]}` in its config.json ends the program with these
lines while it loads, `"answering"` at its first answer, where a real one would meet a broken file or a full GPU. With
`"stand_in": {"endless": true}` a stream goes on, four words a second, for as long as max_tokens lets it. Only the standard library
is used, since no image has more."""
import itertools
import json
import os
import pathlib
import signal
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HERE = pathlib.Path(__file__).resolve().parent
MISFORTUNES = {}
ANSWER = ["I ", "am ", "a ", "stand-in ", "and ", "heard ", "you ", "well."]


def say(text):
    print(f"{time.time():.3f} {text}", file=sys.stderr, flush=True)


def fail(text, code=1):
    print(text, file=sys.stderr, flush=True)
    sys.exit(code)


def flags_of(name):
    lines = (HERE / f"{name}.flags").read_text().splitlines()
    return dict(line.split(" ") for line in lines if not line.startswith("#"))


def parse(program, words):
    """Positional words and options, or the end with argparse's exit code for an unknown flag, a missing or a superfluous value."""
    known, positional, options = flags_of(program.split()[0]), [], {}
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            positional.append(word)
            continue
        flag, equals, value = word.partition("=")
        kind = known.get(flag)
        if kind is None:
            fail(f"{program}: error: unrecognized arguments: {word}", 2)
        follows = lambda: bool(words) and not words[0].startswith("-")
        if kind == "switch":
            if equals:
                fail(f"{program}: error: argument {flag}: ignored explicit argument {value!r}", 2)
            options[flag] = True
        elif kind == "list":
            values = [value] if equals else []
            while not equals and follows():
                values.append(words.pop(0))
            if not values:
                fail(f"{program}: error: argument {flag}: expected at least one argument", 2)
            options[flag] = values
        elif equals or follows():
            options[flag] = value if equals else words.pop(0)
        elif kind == "optional":
            options[flag] = True
        else:
            fail(f"{program}: error: argument {flag}: expected one argument", 2)
    return positional, options


def number(program, options, flag, default):
    try:
        return int(options.get(flag, default))
    except ValueError:
        fail(f"{program}: error: argument {flag}: invalid int value: {options[flag]!r}", 2)


def snapshot(model, revision):
    """The folder of a model in the local cache; the end where it is not whole, as the real programs do offline."""
    if os.environ.get("HF_HUB_OFFLINE") != "1":
        fail("HF_HUB_OFFLINE is not 1: the real program would now ask the Hub")
    leaked = sorted(name for name in os.environ if name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") or name.startswith("RUNPOD_"))
    if leaked:
        fail(f"{', '.join(leaked)} must not reach the engine")
    if os.path.isdir(model):
        folder = pathlib.Path(model)
    else:
        home = os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface")
        cache = pathlib.Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")) / ("models--" + model.replace("/", "--"))
        reference = cache / "refs" / revision
        commit = reference.read_text().strip() if reference.is_file() else revision
        folder = cache / "snapshots" / commit
    if not (folder / "config.json").is_file():
        fail(f"OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached files: {folder}/config.json")
    weights = list(folder.glob("*.safetensors"))
    if not weights or not all(os.access(path, os.R_OK) for path in weights):
        fail(f"RuntimeError: Cannot find any model weights with `{folder}`")
    MISFORTUNES.update(json.loads((folder / "config.json").read_text() or "{}").get("stand_in", {}))
    suffer("loading")
    return folder


def suffer(when):
    """Ends the program where the model says so; also from a thread, which sys.exit would end alone."""
    if when in MISFORTUNES:
        print("\n".join(MISFORTUNES[when]), file=sys.stderr, flush=True)
        os._exit(1)


class Handler(BaseHTTPRequestHandler):
    """One request. `server.engine` says how the program at hand differs."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message):
        kind = {400: "BadRequestError", 404: "NotFoundError"}.get(status, "InternalServerError")
        self.answer(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})

    def do_GET(self):
        engine = self.server.engine
        if self.path == "/health":
            self.answer(200, engine.health)
        elif self.path == "/v1/models":
            models = [{"id": name, "object": "model", "created": int(engine.started), "owned_by": engine.owner, **engine.card} for name in engine.names]
            self.answer(200, {"object": "list", "data": models})
        elif self.path == "/version" and engine.version_route:
            self.answer(200, {"version": engine.version})
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self):
        engine = self.server.engine
        length = int(self.headers.get("Content-Length") or 0)
        try:
            body = json.loads(self.rfile.read(length))
        except ValueError:
            return self.refuse(400, "the body is not JSON")
        if self.path not in engine.routes:
            return self.answer(404, {"detail": "Not Found"})
        if body.get("model") not in engine.names:
            return self.refuse(engine.wrong_model, f"The model `{body.get('model')}` does not exist.")
        chat = self.path == "/v1/chat/completions"
        if chat and not isinstance(body.get("messages"), list):
            return self.refuse(400, "messages is required")
        if self.path == "/v1/embeddings":
            inputs = body.get("input") if isinstance(body.get("input"), list) else [body.get("input")]
            data = [{"object": "embedding", "index": index, "embedding": [0.6, 0.8]} for index in range(len(inputs))]
            return self.answer(200, {"object": "list", "model": body["model"], "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or len(ANSWER)
        endless = body.get("stream") and MISFORTUNES.get("endless")
        words = list(itertools.islice(itertools.cycle(ANSWER), limit)) if endless else ANSWER[:limit]
        reason = "stop" if len(words) == len(ANSWER) else "length"
        usage = {"prompt_tokens": 7, "completion_tokens": len(words), "total_tokens": 7 + len(words)}
        base = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body["model"]}
        if not body.get("stream"):
            suffer("answering")
            text = "".join(words)
            choice = {"index": 0, "finish_reason": reason, **({"message": {"role": "assistant", "content": text}} if chat else {"text": text})}
            return self.answer(200, {**base, "object": "chat.completion" if chat else "text_completion", "choices": [choice], "usage": usage})
        self.stream(base, words, reason, usage, chat, (body.get("stream_options") or {}).get("include_usage"))

    def stream(self, base, words, reason, usage, chat, with_usage):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def event(text):
            data = f"data: {text}\n\n".encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def chunk(choices, **more):
            event(json.dumps({**base, "object": "chat.completion.chunk" if chat else "text_completion", "choices": choices, **more}))

        try:
            if chat:
                chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
            for word in words:
                suffer("answering")
                time.sleep(0.25 if MISFORTUNES.get("endless") else self.server.engine.pause)
                part = {"delta": {"content": word}} if chat else {"text": word}
                chunk([{"index": 0, **part, "finish_reason": None}])
            last = [{"index": 0, **({"delta": {}} if chat else {"text": ""}), "finish_reason": reason}]
            if self.server.engine.ends_with_usage_alone:
                chunk(last, usage=usage)
            else:
                chunk(last)
                if with_usage:
                    chunk([], usage=usage)
                event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            # The client left; the real programs stop generating here.
            say("client disconnected, request aborted")
            self.close_connection = True


class Engine:
    """What differs between the programs, with what both have."""

    pause = 0.01
    health = b""
    card = {}
    version_route = False
    wrong_model = 404
    ends_with_usage_alone = False

    def serve(self, host, port):
        """Answers until SIGTERM or SIGINT. Like the real ones, it listens only when the weights are loaded."""
        self.started = time.time()
        server = ThreadingHTTPServer((host, port), Handler)
        server.daemon_threads = True
        server.engine = self
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: threading.Thread(target=server.shutdown).start())
        say(f"INFO:     Uvicorn running on http://{host}:{port} (Press CTRL+C to quit)")
        server.serve_forever()
