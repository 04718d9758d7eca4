"""Neural networks that are run: encoders, networks under study, sparse autoencoders, image generators."""
