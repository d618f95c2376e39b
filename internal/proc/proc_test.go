package proc

import (
	"runtime"
	"testing"
)

func TestPeakMemoryGrows(t *testing.T) {
	before := PeakMemory()
	if before == 0 {
		if runtime.GOOS == "linux" || runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
			t.Fatal("no peak memory on a system that tells it")
		}
		return
	}
	const n = 64 << 20
	b := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		b[i] = 1
	}
	if after := PeakMemory(); after < before+n/2 || after > before+4*n {
		t.Errorf("peak went from %d to %d after touching %d bytes", before, after, n)
	}
	runtime.KeepAlive(b)
}

func TestMachine(t *testing.T) {
	if CPUName() == "" {
		t.Error("the processor has no name")
	}
	if runtime.GOOS == "linux" && (TotalMemory() < 64<<20 || FreeDisk(t.TempDir()) == 0) {
		t.Errorf("memory %d, disk %d", TotalMemory(), FreeDisk(t.TempDir()))
	}
	if FreeDisk("/no/such/folder") != 0 {
		t.Error("free space in a folder that does not exist")
	}
}
