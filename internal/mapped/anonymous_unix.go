//go:build unix

package mapped

import "golang.org/x/sys/unix"

func mapAnonymous(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil {
		large(b)
	}
	return b, err
}
