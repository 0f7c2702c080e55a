# Sourced by every pipeline before it changes its folder, and by ../glccl: sets `python` to the Python that runs the stages and `root` to
# this checkout.
#
# Read from the environment: PYTHON, a path or a command, whose Python has the requirements. Default: that of an activated environment,
# else .venv/bin/python of this checkout, which make sets up, else python3.
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

absolute() { # a path from the folder that the pipeline was started in, which then holds in any
    case $1 in
    /*) printf '%s' "$1" ;;
    *) printf '%s' "$PWD/$1" ;;
    esac
}

python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ]; then
    for candidate in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" "$root/.venv/bin/python"; do
        if [ -x "$candidate" ]; then
            python=$candidate
            break
        fi
    done
fi
case $python in
*/*) python=$(absolute "$python") ;;
esac
if ! command -v -- "$python" >/dev/null; then
    echo "error: there is no Python at $python: set PYTHON to one that has the requirements (requirements.txt)" >&2
    exit 2
fi
