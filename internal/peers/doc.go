// Command peers is `make bench`: pare beside the programs that people would use instead, on the same
// machine, the same files and the same threads, in turns within the same minutes. It fetches the peers
// (install.py), makes the models (synth), lets the peer and pare take turns, measures beside every round
// how fast this machine reads memory, and writes a table with ratios, percentiles and bars into
// docs/performance.md and all figures as JSON into the cache.
//
// llama.cpp is driven through its C API by probe/llama.c; OpenBLAS, and what the machine can do at most,
// by probe/machine.c; NumPy, ONNX Runtime and PyTorch by gemm.py. All of them, and the runner in this
// process, answer the same few commands, one line each: see client. What cannot be had or fails becomes a
// row that says why.
package main
