package proc

import (
	"math"
	"unsafe"

	"golang.org/x/sys/windows"
)

// memoryCounters is PROCESS_MEMORY_COUNTERS of psapi.h.
type memoryCounters struct {
	cb                         uint32
	pageFaults                 uint32
	peakWorkingSet             uintptr
	workingSet                 uintptr
	quotaPeakPaged, quotaPaged uintptr
	quotaPeakNon, quotaNon     uintptr
	pagefile, peakPagefile     uintptr
}

var getMemoryInfo = windows.NewLazySystemDLL("kernel32.dll").NewProc("K32GetProcessMemoryInfo")

func peakMemory() int64 {
	var c memoryCounters
	c.cb = uint32(unsafe.Sizeof(c))
	ok, _, _ := getMemoryInfo.Call(uintptr(windows.CurrentProcess()), uintptr(unsafe.Pointer(&c)), uintptr(c.cb)) // its error says nothing more than ok
	if ok == 0 {
		return 0
	}
	return int64(c.peakWorkingSet) //nolint:gosec // an amount of memory
}

func freeDisk(path string) int64 {
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return 0
	}
	var free uint64
	if windows.GetDiskFreeSpaceEx(p, &free, nil, nil) != nil {
		return 0
	}
	return int64(min(free, math.MaxInt64/2)) //nolint:gosec // bounded
}
