"""Installs ``loralib`` alone; the experiments in ``examples/`` run from the checkout (``requirement.txt``)."""

from pathlib import Path

from setuptools import setup

setup(
    name="loralib",
    version="0.2.0",
    description="LoRA: low-rank adaptation of linear, embedding and convolution layers for PyTorch",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=["loralib"],
    package_data={"loralib": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=["torch>=2.4"],
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: OS Independent",
    ],
)
