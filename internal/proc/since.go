package proc

import (
	"os"
	"sync"
)

var peaks struct {
	sync.Mutex
	past int64 // highest peak before the mark was set back
}

// PeakMemory is the most resident memory that the process has had, in bytes, or 0 where the system
// does not tell. On Linux it is VmHWM, which counts pages of mapped files too. PeakSince does not
// disturb it.
func PeakMemory() int64 {
	peaks.Lock()
	defer peaks.Unlock()
	peaks.past = max(peaks.past, peakMemory()) // the system's count is inexact: it may read a little lower later
	return peaks.past
}

// PeakSince sets the system's high-water mark of resident memory back to what is resident now, and
// returns a function that reads the mark. It is false where the system cannot do that (all but
// Linux); the function then gives the peak of the whole run.
func PeakSince() (peak func() int64, ok bool) {
	peaks.Lock()
	defer peaks.Unlock()
	before := peakMemory()
	if os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) != nil {
		return PeakMemory, false
	}
	peaks.past = max(peaks.past, before)
	return peakMemory, true
}
