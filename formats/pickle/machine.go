package pickle

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/pare-dev/pare/internal/storage"
)

// Values on the stack: nil, bool, int64, float64, string, tuple, *list, *dict, global, *store,
// *Tensor and mark.
type (
	tuple  []any
	list   struct{ items []any }
	global string // "module name"
	mark   struct{}
)

// dict keeps insertion order. Keys are strings, integers and booleans.
type dict struct {
	keys   []any
	values map[any]any
}

func (d *dict) set(key, value any) error {
	switch key.(type) {
	case string, int64, bool:
	default:
		return fmt.Errorf("%w: a dictionary key that is neither a string nor a number", ErrForbidden)
	}
	if d.values == nil {
		d.values = map[any]any{}
	}
	if _, old := d.values[key]; !old {
		d.keys = append(d.keys, key)
	}
	d.values[key] = value
	return nil
}

// store is where the elements of a storage lie.
type store struct {
	typ   storage.Type
	off   int64
	elems int64
}

// machine interprets the pickle. Its stack and memo cannot outgrow the program, because every
// instruction adds at most one value and takes at least one byte.
type machine struct {
	in      []byte
	at      int
	stack   []any
	memo    map[uint32]any
	storage func(id tuple) (*store, error)
}

// The globals that may be named, and nothing else.
const (
	rebuildTensor = global("torch._utils _rebuild_tensor_v2")
	orderedDict   = global("collections OrderedDict")
)

func (m *machine) run() (any, error) {
	m.memo = map[uint32]any{}
	for {
		op, err := m.take(1)
		if err != nil {
			return nil, err
		}
		if op[0] == '.' { // STOP
			v, err := m.pop()
			if err != nil {
				return nil, err
			}
			if len(m.stack) != 0 || m.at != len(m.in) {
				return nil, fmt.Errorf("%w: something is left over", ErrPickle)
			}
			return v, nil
		}
		if err := m.step(op[0]); err != nil {
			return nil, err
		}
	}
}

func (m *machine) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		b, err := m.take(1)
		if err != nil {
			return err
		}
		if b[0] != 2 {
			return fmt.Errorf("%w: protocol %d; torch.save writes protocol 2", ErrForbidden, b[0])
		}
	case '(': // MARK
		m.push(mark{})
	case 'N': // NONE
		m.push(nil)
	case 0x88, 0x89: // NEWTRUE, NEWFALSE
		m.push(op == 0x88)
	case '}': // EMPTY_DICT
		m.push(&dict{})
	case ']': // EMPTY_LIST
		m.push(&list{})
	case ')': // EMPTY_TUPLE
		m.push(tuple{})
	case 'K', 'M', 'J', 0x8a, 'G', 'X', 'U':
		return m.literal(op)
	case 'q', 'r', 'h', 'j': // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
		return m.remember(op)
	case 't': // TUPLE
		items, err := m.popMark()
		if err != nil {
			return err
		}
		m.push(tuple(items))
	case 0x85, 0x86, 0x87: // TUPLE1..3
		items, err := m.popN(int(op - 0x84))
		if err != nil {
			return err
		}
		m.push(append(tuple(nil), items...))
	case 'a', 'e', 's', 'u': // APPEND, APPENDS, SETITEM, SETITEMS
		return m.fill(op)
	case 'c': // GLOBAL
		return m.global()
	case 'Q': // BINPERSID
		v, err := m.pop()
		if err != nil {
			return err
		}
		id, ok := v.(tuple)
		if !ok {
			return fmt.Errorf("%w: a persistent id that is no tuple", ErrForbidden)
		}
		s, err := m.storage(id)
		if err != nil {
			return err
		}
		m.push(s)
	case 'R': // REDUCE
		return m.reduce()
	case 'b': // BUILD: attributes of an OrderedDict (_metadata of a state_dict) are dropped
		if _, err := m.pop(); err != nil {
			return err
		}
		if len(m.stack) == 0 {
			return m.underflow()
		}
		if _, ok := m.stack[len(m.stack)-1].(*dict); !ok {
			return fmt.Errorf("%w: BUILD of something other than a dictionary", ErrForbidden)
		}
	default:
		return fmt.Errorf("%w: instruction 0x%02x", ErrForbidden, op)
	}
	return nil
}

// literal pushes a number or a string.
func (m *machine) literal(op byte) error {
	width := map[byte]int{'K': 1, 'M': 2, 'J': 4, 0x8a: 1, 'G': 8, 'X': 4, 'U': 1}[op]
	b, err := m.take(width)
	if err != nil {
		return err
	}
	switch op {
	case 'K': // BININT1
		m.push(int64(b[0]))
	case 'M': // BININT2
		m.push(int64(binary.LittleEndian.Uint16(b)))
	case 'J': // BININT
		m.push(int64(int32(binary.LittleEndian.Uint32(b)))) //nolint:gosec // two's complement
	case 'G': // BINFLOAT, big endian
		m.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	case 0x8a: // LONG1, two's complement
		if b[0] > 8 {
			return fmt.Errorf("%w: an integer of %d bytes", ErrPickle, b[0])
		}
		d, err := m.take(int(b[0]))
		if err != nil {
			return err
		}
		var v int64
		for i, c := range d {
			v |= int64(c) << (8 * i)
		}
		if n := len(d); n > 0 && n < 8 && d[n-1] >= 0x80 {
			v -= 1 << (8 * n)
		}
		m.push(v)
	default: // BINUNICODE, SHORT_BINSTRING
		n := uint64(b[0])
		if op == 'X' {
			n = uint64(binary.LittleEndian.Uint32(b))
		}
		if n > uint64(len(m.in)-m.at) {
			return m.short()
		}
		s, err := m.take(int(n)) //nolint:gosec // below the program's length
		if err != nil {
			return err
		}
		if !utf8.Valid(s) {
			return fmt.Errorf("%w: a string is not UTF-8", ErrPickle)
		}
		m.push(string(s))
	}
	return nil
}

// remember stores to or loads from the memo.
func (m *machine) remember(op byte) error {
	width := 1
	if op == 'r' || op == 'j' {
		width = 4
	}
	b, err := m.take(width)
	if err != nil {
		return err
	}
	key := uint32(b[0])
	if width == 4 {
		key = binary.LittleEndian.Uint32(b)
	}
	if op == 'q' || op == 'r' {
		if len(m.stack) == 0 {
			return m.underflow()
		}
		m.memo[key] = m.stack[len(m.stack)-1]
		return nil
	}
	v, ok := m.memo[key]
	if !ok {
		return fmt.Errorf("%w: memo %d was never written", ErrPickle, key)
	}
	m.push(v)
	return nil
}

// fill adds items to a list or a dictionary.
func (m *machine) fill(op byte) error {
	var items []any
	var err error
	switch op {
	case 'a':
		items, err = m.popN(1)
	case 's':
		items, err = m.popN(2)
	default:
		items, err = m.popMark()
	}
	if err != nil {
		return err
	}
	if len(m.stack) == 0 {
		return m.underflow()
	}
	switch to := m.stack[len(m.stack)-1].(type) {
	case *list:
		if op == 'a' || op == 'e' {
			to.items = append(to.items, items...)
			return nil
		}
	case *dict:
		if (op == 's' || op == 'u') && len(items)%2 == 0 {
			for i := 0; i < len(items); i += 2 {
				if err := to.set(items[i], items[i+1]); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return fmt.Errorf("%w: items for something that is no container", ErrPickle)
}

// global reads "module\nname\n" and refuses what is not on the list.
func (m *machine) global() error {
	var parts [2]string
	for i := range parts {
		from := m.at
		for m.at < len(m.in) && m.in[m.at] != '\n' && m.at-from < 256 {
			m.at++
		}
		if m.at == len(m.in) || m.in[m.at] != '\n' {
			return m.short()
		}
		parts[i] = string(m.in[from:m.at])
		m.at++
	}
	g := global(parts[0] + " " + parts[1])
	_, isStorage := storageTypes[parts[1]]
	if g != rebuildTensor && g != orderedDict && (parts[0] != "torch" || !isStorage) {
		return fmt.Errorf("%w: it names %q of %q", ErrForbidden, parts[1], parts[0])
	}
	m.push(g)
	return nil
}

// reduce applies one of the known globals.
func (m *machine) reduce() error {
	two, err := m.popN(2)
	if err != nil {
		return err
	}
	g, okG := two[0].(global)
	args, okArgs := two[1].(tuple)
	if !okG || !okArgs {
		return fmt.Errorf("%w: a call of something that is no known function", ErrForbidden)
	}
	switch g {
	case rebuildTensor:
		t, err := rebuild(args)
		if err != nil {
			return err
		}
		m.push(t)
		return nil
	case orderedDict:
		d := &dict{}
		if len(args) == 1 { // a list of pairs
			pairs, ok := args[0].(*list)
			if !ok {
				return fmt.Errorf("%w: OrderedDict of something that is no list", ErrForbidden)
			}
			for _, p := range pairs.items {
				kv, ok := asPair(p)
				if !ok {
					return fmt.Errorf("%w: OrderedDict of something other than pairs", ErrPickle)
				}
				if err := d.set(kv[0], kv[1]); err != nil {
					return err
				}
			}
		} else if len(args) != 0 {
			return fmt.Errorf("%w: OrderedDict of %d arguments", ErrForbidden, len(args))
		}
		m.push(d)
		return nil
	}
	return fmt.Errorf("%w: a call of %q", ErrForbidden, string(g))
}

func asPair(v any) ([]any, bool) {
	switch v := v.(type) {
	case tuple:
		return v, len(v) == 2
	case *list:
		return v.items, len(v.items) == 2
	}
	return nil, false
}

func (m *machine) push(v any) { m.stack = append(m.stack, v) }

func (m *machine) pop() (any, error) {
	items, err := m.popN(1)
	if err != nil {
		return nil, err
	}
	return items[0], nil
}

// popN takes n values that are not marks. The slice is valid until the next push.
func (m *machine) popN(n int) ([]any, error) {
	if len(m.stack) < n {
		return nil, m.underflow()
	}
	items := m.stack[len(m.stack)-n:]
	for _, v := range items {
		if _, is := v.(mark); is {
			return nil, m.underflow()
		}
	}
	m.stack = m.stack[:len(m.stack)-n]
	return items, nil
}

// popMark takes everything above the topmost mark, and the mark.
func (m *machine) popMark() ([]any, error) {
	for i := len(m.stack) - 1; i >= 0; i-- {
		if _, is := m.stack[i].(mark); is {
			items := append([]any(nil), m.stack[i+1:]...)
			m.stack = m.stack[:i]
			return items, nil
		}
	}
	return nil, m.underflow()
}

func (m *machine) take(n int) ([]byte, error) {
	if n > len(m.in)-m.at {
		return nil, m.short()
	}
	b := m.in[m.at : m.at+n]
	m.at += n
	return b, nil
}

func (m *machine) short() error     { return fmt.Errorf("%w: it ends early", ErrPickle) }
func (m *machine) underflow() error { return fmt.Errorf("%w: the stack is empty", ErrPickle) }
