"""The multimodal recommenders, one file per model; every public model class here is registered with RecBole."""
