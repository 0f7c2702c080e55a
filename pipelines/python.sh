# Sourced by every pipeline before it changes its folder: sets `python` to the Python that runs the stages and `root` to this checkout.
#
# Read from the environment: PYTHON, a path or a command, whose Python has the requirements. Default: .venv/bin/python of this checkout,
# which make sets up, where it is there, else python3.
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

absolute() { # a path from the folder that the pipeline was started in, which then holds in any
    case $1 in
    /*) printf '%s' "$1" ;;
    *) printf '%s' "$PWD/$1" ;;
    esac
}

python=${PYTHON:-$root/.venv/bin/python}
if [ -z "${PYTHON:-}" ] && [ ! -x "$python" ]; then
    python=python3
fi
case $python in
*/*) python=$(absolute "$python") ;;
esac
if ! command -v -- "$python" >/dev/null; then
    echo "error: there is no Python at $python: set PYTHON to one that has the requirements (requirements.txt)" >&2
    exit 2
fi
