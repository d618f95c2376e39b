// Package npy reads and writes arrays in files: NumPy's .npy in formats 1 to 3, every number type, C and
// Fortran order, both byte orders; and the IDX files of MNIST and its relatives, gzip-compressed or not.
//
//	f, err := npy.Open("x.npy")      the header, checked against the size of the file
//	b, err := f.Rows(0, 1)           rows along the first axis, C order, little-endian
//
// Only what is asked for is read, unless the file is in Fortran order or compressed. What a number means is the
// caller's business.
package npy
