# @title Is everything installed? In Colab and Kaggle, this installs course_utils and leaves torch alone.
import os
import re
import subprocess
import sys
from importlib.metadata import version

address = "git+https://github.com/your_name/save-load-freeze"
kaggle = "KAGGLE_KERNEL_RUN_TYPE" in os.environ
if kaggle or "google.colab" in sys.modules:
    keep = [f"{name}=={version(name)}" for name in ("torch", "torchvision")]
    pip = subprocess.run([sys.executable, "-m", "pip", "install", "-q", address, *keep], capture_output=True, text=True)
    connect = "switch it on (Settings → Turn on internet)" if kaggle else "connect"
    latest = "environment (Settings → Environment)" if kaggle else "runtime version (Runtime → Change runtime type)"
    answers = {
        "conflicting dep|different Python": f"PyTorch {version('torch')} is too old: choose the latest {latest}",
        "find command 'git'": "Git is missing: run `!apt-get install git`",
        "No space left|unable to write": "The disk is full: delete files",
        "roxy|tunnel|Failed to connect to (?!github)": "The proxy refuses: correct HTTPS_PROXY",
        "resolve host|connect|timed out": f"There is no network: {connect}",
        "not found|read Username": f"Nothing is at {address}: correct it here",
    }
    if pip.returncode:
        answer = next((say for words, say in answers.items() if re.search(words, pip.stderr)), None)
        raise RuntimeError(f"{answer}, then run this again." if answer else pip.stderr)
try:
    import course_utils.training
except Exception as error:
    raise RuntimeError(f"{error}: run `%pip install {address}`, or `make lab` in a checkout.") from None
