// Package onnx reads and writes the bytes of ONNX files: protocol buffers by the types that protoc-gen-go
// makes of onnx-ml.proto (ONNX v1.22.0), with two additions that size demands.
//
// The data of large tensors is never copied. Open first walks the file along the messages that lead to
// tensors and leaves data out of what is unmarshalled; File.Data says where it lies. Written files
// are put together the other way round: a Builder is given the data of each tensor as a promise, which is
// kept when its turn comes. So neither the 2 GiB limit of protocol buffers nor memory bounds a file.
//
// Data may also lie in files beside the model (external data). Such a file is opened only below the
// model's folder: names with "..", absolute paths and links that lead out are refused.
package onnx

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

//go:generate ./generate.sh

// Reasons for refusing a file.
var (
	ErrTruncated = errors.New("the file is cut short")
	ErrWire      = errors.New("not a well-formed ONNX file")
	ErrDepth     = errors.New("graphs are nested too deeply")
	ErrNoGraph   = errors.New("the file holds no graph")
	ErrOpset     = errors.New("the file names no operator set")
	ErrShape     = errors.New("bad shape")
	ErrType      = errors.New("unknown element type")
	ErrData      = errors.New("data does not fit the shape")
	ErrEscape    = errors.New("external data outside the model's folder")
	ErrExternal  = errors.New("bad external data")
	ErrValue     = errors.New("not a tensor, sequence or optional")
)

// kind is a message on the way to a tensor.
type kind uint8

const (
	kindOther kind = iota
	kindModel
	kindTraining
	kindFunction
	kindGraph
	kindNode
	kindAttribute
	kindSparse
	kindTensor
)

// field numbers of TensorProto, and of its stand-in for data that was left in the file: the highest
// number there is, which no version of ONNX will use. Its value is an index.
const (
	fieldFloat   protowire.Number = 4
	fieldInt32   protowire.Number = 5
	fieldInt64   protowire.Number = 7
	fieldRaw     protowire.Number = 9
	fieldDouble  protowire.Number = 10
	fieldUint64  protowire.Number = 11
	fieldStandIn                  = protowire.MaxValidNumber
)

// child is the kind of a field's message, kindOther when no tensor lies below it.
func child(of kind, field protowire.Number) kind {
	switch of {
	case kindModel:
		switch field {
		case 7:
			return kindGraph
		case 20:
			return kindTraining
		case 25:
			return kindFunction
		}
	case kindTraining:
		if field == 1 || field == 2 {
			return kindGraph
		}
	case kindFunction:
		switch field {
		case 7:
			return kindNode
		case 11:
			return kindAttribute
		}
	case kindGraph:
		switch field {
		case 1:
			return kindNode
		case 5:
			return kindTensor
		case 15:
			return kindSparse
		}
	case kindNode:
		if field == 5 {
			return kindAttribute
		}
	case kindAttribute:
		switch field {
		case 5, 10:
			return kindTensor
		case 6, 11:
			return kindGraph
		case 22, 23:
			return kindSparse
		}
	case kindSparse:
		if field == 1 || field == 2 {
			return kindTensor
		}
	}
	return kindOther
}

// isData reports the fields of a tensor that hold its elements, strings aside.
func isData(field protowire.Number) bool {
	switch field {
	case fieldFloat, fieldInt32, fieldInt64, fieldRaw, fieldDouble, fieldUint64:
		return true
	}
	return false
}
