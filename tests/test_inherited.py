"""Variables of the user's shell at which an import fails: what does not need the package goes on, the rest is one line."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fd.runtime.imports import import_failure

ROOT = Path(__file__).parent.parent
IMAGES = "visual-antmaze-medium-v0"
NAMES = ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID", "PYOPENGL_PLATFORM", "DISPLAY")
no_osmesa = pytest.mark.skipif(ctypes.util.find_library("OSMesa") is not None, reason="this machine has OSMesa")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python with these variables, and none of the user's that choose a renderer."""
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=inherited | variables, capture_output=True, text=True, check=False
    )


def made(environment: str, **variables: str) -> str:
    """What a program tells that makes an environment and resets it: `made`, or the message of its FdError."""
    script = (
        "from fd.errors import FdError; from fd.simulation.environments import FlatEnv, make\n"
        f"try: FlatEnv(make({environment!r}), keys=(), seeds_numpy=True).reset(seed=0); print('made')\n"
        "except FdError as error: print(error)\n"
    )
    done = run("-c", script, **variables)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    return done.stdout.strip()


@pytest.mark.parametrize("value", ["osmesa", "glx"])
def test_vectors_need_no_renderer(value: str) -> None:
    variables = {"MUJOCO_GL": value, "PYOPENGL_PLATFORM": "glx", "PYGLFW_LIBRARY": "/nonexistent.so"}
    assert made("cube-single-v0", **variables) == "made"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("cgl", "MUJOCO_GL='cgl' names no renderer"),
        ("glx", "cannot be rendered by GLFW ("),
        pytest.param("osmesa", "cannot be rendered by OSMesa (", marks=no_osmesa),
    ],
)
def test_images_without_their_renderer_are_one_line(value: str, told: str) -> None:
    line = made(IMAGES, MUJOCO_GL=value)
    assert told in line and f"MUJOCO_GL={value!r}" in line and "allowed: no value or egl (" in line


def test_a_device_that_does_not_exist_is_named() -> None:
    line = made(IMAGES, MUJOCO_EGL_DEVICE_ID="first")
    assert "MUJOCO_EGL_DEVICE_ID='first'" in line and "MUJOCO_GL is not set" in line


@pytest.mark.parametrize("value", ["EGL", "off"])
def test_images_are_rendered_without_a_display(value: str) -> None:
    assert made(IMAGES, MUJOCO_GL=value, PYOPENGL_PLATFORM="glx") == "made"


def test_figures_need_no_backend() -> None:
    """Such as that of a notebook, in whose terminal a stage is run."""
    done = run("-m", "stages.report", "--help", MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "name", "package"),
    [
        (("-m", "stages.pretrain", "--help"), "TORCH_LOGS", "torch"),  # before the program begins
        (("-c", "import sys; from fd.cli.program import main; sys.argv[1:] = ['--help']; main()"), "TERMINAL_WIDTH", "typer"),
    ],
)  # fmt: skip
def test_a_value_at_which_an_import_fails_is_one_line(arguments: tuple[str, ...], name: str, package: str) -> None:
    done = run(*arguments, **{name: "nonsense"})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {package} cannot be imported: ValueError: ")
    assert f"the environment has {name}='nonsense', allowed: " in done.stderr


def test_an_error_of_this_project_keeps_its_traceback() -> None:
    try:
        raise ValueError("nonsense")
    except ValueError as error:
        assert import_failure(error) is None
