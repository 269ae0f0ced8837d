from runtime.triton import TritonPythonModel as TritonPythonModel
