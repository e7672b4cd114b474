"""The data of a run: what ModelZoo's GptHDF5MapDataProcessor reads, in its order."""
