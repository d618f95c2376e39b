package proc

import (
	"runtime"
	"runtime/debug"
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

func TestPeakSince(t *testing.T) {
	const n = 64 << 20
	b := make([]byte, n)
	for i := 0; i < n; i += 4096 {
		b[i] = 1
	}
	high := PeakMemory()
	runtime.KeepAlive(b)
	b = nil
	debug.FreeOSMemory()
	peak, ok := PeakSince()
	if !ok {
		if runtime.GOOS == "linux" {
			t.Skip("this kernel does not set the mark back")
		}
		return
	}
	if low := peak(); low <= 0 || low > high-n/2 {
		t.Errorf("%d bytes just after setting the mark back, %d before", low, high)
	}
	if all := PeakMemory(); all < high {
		t.Errorf("the peak of the whole run fell from %d to %d", high, all)
	}
}
