package runner

import (
	"runtime"
	"unsafe"

	"github.com/pare-dev/pare/internal/mapped"
)

// slab is the memory of pages that were added to a session together. A token reads the whole cache once, in
// pieces of kilobytes from all over it: in small pages of memory every piece asks for translations that nothing
// has kept, which costs an eighth of the time. So pages that are worth it lie side by side, in large pages of
// memory where the system has them.
type slab struct {
	memory    *mapped.Anonymous // nil: pages lie on the heap, each by itself
	rest      []byte
	forgotten runtime.Cleanup // for sessions that nobody closes
}

// slabLeast is how many bytes make a slab: less is no large page of memory.
const slabLeast = 2 << 20

// newSlab is memory for pages of n bytes in all. It lives as long as one of them, or until close.
func newSlab(n int64) *slab {
	s := &slab{}
	if n < slabLeast || int64(int(n)) != n {
		return s
	}
	s.memory = mapped.NewAnonymous(int(n))
	s.rest = s.memory.Bytes()
	s.forgotten = runtime.AddCleanup(s, func(m *mapped.Anonymous) { _ = m.Close() }, s.memory)
	return s
}

// close gives the memory back, whatever still lies in it.
func (s *slab) close() {
	if s != nil && s.memory != nil {
		s.forgotten.Stop()
		_ = s.memory.Close() // nothing is lost with memory that stays
	}
}

// numbersOf is n zeros out of a slab. They keep nothing alive: their page does.
func numbersOf[T float32 | uint16 | int8](s *slab, n int) []T {
	var zero T
	size := n * int(unsafe.Sizeof(zero))
	if len(s.rest) < size {
		return make([]T, n)
	}
	b := s.rest[:size:size]
	s.rest = s.rest[size:]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n)
}
