//go:build noasm || (!amd64 && !arm64)

package cpu

// Pause does nothing here: a spinning loop is a little less polite.
func Pause() {}
