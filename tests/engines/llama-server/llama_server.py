"""llama.cpp's server under its own name: takes the flags that srchat passes, as the real program spells them, and refuses every
other. Stands beside the xllamacpp that it serves with; `llama-server` starts it with an interpreter of its own, since llama.cpp's
image ships no Python.
"""
import os
import signal
import sys
import threading
import time

VALUES = {"-m": str, "--mmproj": str, "-c": int, "-np": int, "--host": str, "--port": int, "--alias": str}
SWITCHES = {"--no-slots", "--no-webui", "--offline"}


def say(text):
    print(text, file=sys.stderr, flush=True)


def mark(what):
    """A moment in Unix time, so that whoever measures can tell the engine's own time from anybody else's."""
    say(f"srchat-engine {what} {time.time():.3f}")


def fail(text):
    print(f"error: {text}", file=sys.stderr, flush=True)
    sys.exit(1)


def parsed(words):
    options, words = {}, list(words)
    while words:
        flag = words.pop(0)
        if flag in SWITCHES:
            options[flag] = True
        elif flag not in VALUES:
            fail(f"invalid argument: {flag}")
        elif not words:
            fail(f"expected value for argument {flag}")
        else:
            try:
                options[flag] = VALUES[flag](words.pop(0))
            except ValueError as wrong:
                fail(f"argument {flag}: {wrong}")
    return options


def main():
    if sys.argv[1:] == ["--version"]:
        import xllamacpp

        # The real program writes this to stderr as well.
        print(f"version: xllamacpp {xllamacpp.__version__}", file=sys.stderr)
        return
    mark("started")
    leaked = sorted(name for name in os.environ if name.startswith("LLAMA_ARG_"))
    if leaked:
        fail(f"{', '.join(leaked)} would override what was asked for: the image's own variables must not reach the engine")
    options = parsed(sys.argv[1:])
    model = options.get("-m") or fail("-m is required")
    for path in filter(None, (model, options.get("--mmproj"))):
        if not os.path.isfile(path):
            fail(f"failed to open {path}")

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    if "--mmproj" in options:
        params.mmproj.path = options["--mmproj"]
    params.n_ctx = options.get("-c", 0)
    params.n_parallel = options.get("-np", 1)
    params.hostnames = [options.get("--host", "127.0.0.1")]
    params.port = options.get("--port", 8080)
    params.model_alias = {options["--alias"]} if "--alias" in options else set()
    params.endpoint_slots = "--no-slots" not in options
    params.ui = "--no-webui" not in options
    params.offline = "--offline" in options
    # By default prompts that were answered are kept in 8 GiB of memory, which a machine that simulates pods does not have.
    params.cache_ram_mib = 0
    # Half of the processors. llama.cpp's threads spin while they wait for each other: on two cores that compile at the same time,
    # one thread makes 8 tokens a second and two make 0.6.
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    say("loading the model")
    server = xllamacpp.Server(params)
    mark("ready")
    say(f"main: server is listening on {server.listening_address}")
    ended.wait()


if __name__ == "__main__":
    main()
