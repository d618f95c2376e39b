package kernels

// SetStorageDecode gives the tests of this package the decoder of a type, by package storage.
func SetStorageDecode(name string, decode func(dst []float32, src []byte)) {
	storageDecode[name] = decode
}
