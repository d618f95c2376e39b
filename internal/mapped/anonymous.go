package mapped

// Anonymous is memory outside of Go's heap, for tables of hundreds of megabytes that live as long as a
// model: the collector neither counts nor scans it, it comes in large pages where the system has them,
// and Close gives it back at once.
type Anonymous struct {
	data   []byte
	mapped bool
}

// NewAnonymous returns n bytes of zeros.
func NewAnonymous(n int) *Anonymous {
	if n > 0 {
		if b, err := mapAnonymous(n); err == nil {
			return &Anonymous{b, true}
		}
	}
	return &Anonymous{make([]byte, n), false}
}

// Bytes is the memory, valid until Close.
func (a *Anonymous) Bytes() []byte { return a.data }

// Close gives the memory back.
func (a *Anonymous) Close() error {
	b, mapped := a.data, a.mapped
	a.data, a.mapped = nil, false
	if !mapped {
		return nil
	}
	return unmap(b)
}
