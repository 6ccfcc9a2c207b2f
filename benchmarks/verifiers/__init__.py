"""The verifiers, measured through gRPC: agreement with labels, throughput, what a hanging input costs, and the sandbox.

python -m benchmarks.verifiers --data FOLDER_WITH_GSM8K
"""
