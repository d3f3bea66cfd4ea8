"""Make the environment of the course: python make_environment.py [FOLDER] [--floors]

FOLDER is .venv by default. --floors: the oldest versions that requirements.txt allows, instead of the newest.
`make lab` runs this; without make, run it yourself. uv installs, which pip brings; where uv cannot be had, or fails,
pip does it all. Whatever goes wrong, the last line says what to do. It needs nothing but Python, and an old one reads
far enough to say that it is too old.
"""

import ast
import os
import re
import shutil
import subprocess
import sys

THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"
AGAIN = "then run this again."
ANSWERS = [  # (what venv, pip or uv says, what to do); the first that fits is the answer
    (
        "No space left on device|Errno 28|not enough space on the disk",
        "The disk is full: free some 10 GB (PyTorch and its GPU libraries are large),",
    ),
    (
        "ensurepip is not|No module named '?(ensurepip|venv|pip)",
        "This Python cannot make environments: install what is missing (on Debian and Ubuntu: sudo apt install "
        f"python{THIS}-venv),",
    ),
    (
        "ProxyError|Cannot connect to proxy|Tunnel connection failed",
        "The proxy lets nothing through: correct its address in HTTPS_PROXY (http://user:password@host:port if it "
        "wants a password),",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED|SSLError",
        "The certificate of the package index is not trusted, as behind the proxy of some schools: set PIP_CERT to the "
        "file of the school's certificate,",
    ),
    (
        "connection broken by|Max retries exceeded|[Rr]ead timed out|Connection (aborted|reset)",
        "The package index does not answer: connect to the network (behind a proxy, set HTTPS_PROXY=http://host:port),",
    ),
    (
        "Permission denied|Read-only file system|Access is denied",
        "The folder of the environment cannot be written to: change its permissions or choose another one with VENV=,",
    ),
    (
        "No matching distribution found",
        f"There is no such package for Python {THIS} here: take a 64-bit Python 3.12 with PYTHON=python3.12,",
    ),
]
NOT_KNOWN = "The environment cannot be made: look above for the first line with ERROR, repair that,"
OF_ANY_INSTALLER = ANSWERS[:-1]  # the last one may be true of uv alone
UV_NAMES = {  # of pip's settings, as where packages come from a mirror: uv does not read them
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


def main(folder, floors):
    """Make the environment in `folder`, or bring it up to date; it is ready when it holds a file named `ready`."""
    ready, unfinished, config = (os.path.join(folder, name) for name in ("ready", "unfinished", "pyvenv.cfg"))
    python = os.path.join(folder, "Scripts" if os.name == "nt" else "bin", "python")
    made_here = os.path.exists(ready) or os.path.exists(unfinished)
    if os.path.isdir(folder) and os.listdir(folder) and not made_here and not os.path.exists(config):
        sys.exit(f"{folder} holds other files and no environment: choose another folder with VENV=, {AGAIN}")
    if made_here and not (os.path.exists(ready) and works(python)):
        # Interrupted, or moved. pip takes for installed what it was unpacking when it was killed, so begin anew.
        run(folder, sys.executable, "-m", "venv", "--clear", "--without-pip", folder)
    if os.path.exists(ready):
        os.remove(ready)
    if made_here or not os.path.exists(config):  # an environment that somebody else made is never cleared
        os.makedirs(folder, exist_ok=True)
        open(unfinished, "w").close()
    run(folder, sys.executable, "-m", "venv", folder)
    requirements = "requirements.txt"
    if floors:
        requirements = os.path.join(folder, "floors.txt")
        with open("requirements.txt", encoding="utf-8") as newest, open(requirements, "w", encoding="utf-8") as oldest:
            oldest.write(newest.read().replace(">=", "=="))
    print(f"Installing into {folder}, which takes some minutes.", flush=True)
    install(folder, python, "-r", requirements, "-e", ".")
    open(ready, "w").close()
    if os.path.exists(unfinished):
        os.remove(unfinished)


def works(python):
    """Does this environment's Python run, and find course_utils?"""
    try:
        return subprocess.call([python, "-P", "-c", "import course_utils"], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def install(folder, python, *packages):
    """By uv, in a third of pip's time. What it meets and pip may not, such as a certificate it does not know, is left
    to pip."""
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    bring = (*pip, "--only-binary=:all:", "uv")
    by_uv = (python, "-m", "uv", "pip", "install", "--quiet", "--python", folder, *packages)
    said = fails(*bring)
    if said is None:
        said = fails(*by_uv, environment=dict(settings_for_uv(python), **os.environ))
    if said is None:
        return
    if known(said, folder, OF_ANY_INSTALLER):
        sys.exit(answer(said, folder))
    print("It cannot be done by uv. pip tries, which takes longer.", file=sys.stderr, flush=True)
    run(folder, *pip, *packages)


def settings_for_uv(python):
    """Environment variables that make uv ask whom pip would ask, and take the newest version that any of them has."""
    said = subprocess.run([python, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True)
    found = {}
    for section in ("global", "install", ":env:"):  # the later one counts
        for key, value in re.findall(r"(?m)^" + section + r"\.([a-z-]+)=('.*'|\".*\")$", said.stdout):
            found[key] = ast.literal_eval(value).split()
    settings = {UV_NAMES[key]: (", "[key != "find-links"]).join(found[key]) for key in found if key in UV_NAMES}
    return dict(settings, UV_INDEX_STRATEGY="unsafe-best-match", UV_SYSTEM_CERTS="true")


def run(folder, *command):
    """Run a command; when it fails, end with the answer to what it said."""
    said = fails(*command)
    if said is not None:
        sys.exit(answer(said, folder))


def fails(*command, environment=None):
    """Run a command and show what it says; returns that when it fails, and None when it does not."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    said = ""
    for line in process.stdout:
        print(line, end="", file=sys.stderr, flush=True)
        said += line
    status = process.wait()
    if status < 0:
        sys.exit(f"Ended from outside by signal {-status}, perhaps for want of memory: close other programs, {AGAIN}")
    return said if status else None


def answer(said, folder):
    """One sentence to what venv, pip or uv said when it failed."""
    sentence = known(said, folder, ANSWERS)
    return f"{sentence or NOT_KNOWN} {AGAIN}"


def known(said, folder, answers):
    """The first of the answers that fits, or None."""
    if os.path.isdir(folder) and shutil.disk_usage(folder).free < 20 * 2**20:
        said = "No space left on device"  # venv does not say why it failed
    return next((sentence for pattern, sentence in answers if re.search(pattern, said)), None)


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036
        sys.exit(
            f"Python 3.11 or newer is needed, and this is {THIS}: install one from python.org, then name it: make "
            "lab PYTHON=python3.12 (without make: py -3.12 make_environment.py)."
        )
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    arguments = [argument for argument in sys.argv[1:] if argument != "--floors"]
    try:
        main(arguments[0] if arguments else ".venv", floors="--floors" in sys.argv)
    except OSError as error:
        sys.exit(answer(str(error), arguments[0] if arguments else ".venv"))
    except KeyboardInterrupt:
        sys.exit("Interrupted: run this again, and it begins anew.")
