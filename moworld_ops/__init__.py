"""The workflow around the library: data contracts, components, pipelines, benchmarks and the command line."""
