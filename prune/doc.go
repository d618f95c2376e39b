// Package prune sets weights to zero: by magnitude (prune.magnitude), by magnitude times the norm of
// the input (prune.wanda, arXiv 2306.11695), or by what it costs when the other weights make up for it
// (prune.sparsegpt, arXiv 2301.00774). All count exactly: ties go to the lower index, so a request for
// half the weights zeroes half of them, not about half.
//
// What competes is one of
//
//	row     the weights of one output: floor(columns * sparsity) of each row
//	layer   the weights of one matrix
//	global  the weights of all chosen matrices, each divided by its root mean square (magnitude only)
//	N:M     at most N of M consecutive weights of a row stay
//
// Nothing is loaded whole. Rows decide for themselves when they are read; layer and global scopes
// find their threshold beforehand by two or three passes with a histogram of fixed size. Weights
// that stay keep their bytes. SparseGPT changes those that stay; it holds the second moments of one
// layer's inputs and a band of rows, and keeps finished matrices in files.
//
// A dense file does not shrink because of zeros; Gain says so per stored type, and Verify counts the
// zeros that are really there after writing.
package prune
