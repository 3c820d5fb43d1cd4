"""Installs ``loralib`` alone; the experiments in ``examples/`` run from the checkout (``requirement.txt``)."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "loralib/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)

setup(
    name="loralib",
    version=VERSION[1],
    description="LoRA: low-rank adaptation of linear, embedding and convolution layers for PyTorch",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The authors of LoRA reproducible; after Hu et al. 2021",
    url="https://github.com/microsoft/LoRA",
    project_urls={"Paper": "https://arxiv.org/abs/2106.09685", "Released code": "https://github.com/microsoft/LoRA"},
    license="MIT",
    packages=["loralib", "loralib.files"],
    package_dir={"": "."},  # so that type checkers find the package of an editable install
    package_data={"loralib": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=["torch>=2.4"],
    extras_require={"files": ["safetensors>=0.4.3"]},  # adapter folders
    entry_points={"console_scripts": ["loralib = loralib.__main__:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: OS Independent",
        "License :: OSI Approved :: MIT License",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
