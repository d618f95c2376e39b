// Package npu knows what neural processors and their compilers take of a network (ir/graph): which
// operators on which codes, how weights may be quantized, which shapes and versions. A family of processors
// is a file of data, *.toml; the walk over a network is the same for all.
//
//	findings := rules.Check(g)
//
// A network without findings is legal: the processor runs all of it. A finding names the node, the rule, and
// the nearest form that is legal. The rules of families whose compilers can be installed are held against
// those compilers' verdicts on a thousand small graphs, in testdata.
package npu
