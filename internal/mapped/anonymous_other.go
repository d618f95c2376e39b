//go:build unix && !linux

package mapped

func large([]byte) {}
