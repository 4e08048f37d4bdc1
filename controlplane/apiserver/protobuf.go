package apiserver

import (
	"bytes"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime"
)

// checkProtobuf refuses a document whose lists have more elements than maxValues. An element of a list can be two bytes in protobuf, and
// takes the size of its Go type when decoded: the message has to be read by its type to be counted.
func checkProtobuf(document []byte, into runtime.Object) error {
	if len(document) <= plainBody {
		return nil
	}
	envelope, isDocument := bytes.CutPrefix(document, protobufMagic)
	if !isDocument {
		return nil // the decoder says so
	}
	message := lastBytes(envelope, 2)
	values := 0
	countProtobuf(message, reflect.TypeOf(into).Elem(), 0, &values)
	return countAllowed(values)
}

// lastBytes returns the last field of a number in a message, which is the one that decoders keep.
func lastBytes(message []byte, number protowire.Number) (value []byte) {
	eachField(message, func(n protowire.Number, data []byte) {
		if n == number {
			value = data
		}
	})
	return value
}

// eachField calls visit with the fields that have bytes, until the message ends or makes no sense.
func eachField(message []byte, visit func(number protowire.Number, data []byte)) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return
		}
		message = message[n:]
		if kind == protowire.BytesType {
			data, n := protowire.ConsumeBytes(message)
			if n < 0 {
				return
			}
			visit(number, data)
			message = message[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return
		}
		visit(number, nil)
		message = message[n:]
	}
}

// countProtobuf adds the fields of a message of a type, and of those in it.
func countProtobuf(message []byte, of reflect.Type, depth int, values *int) {
	fields := protobufFields(of)
	eachField(message, func(number protowire.Number, data []byte) {
		*values++
		if inner := fields[number]; inner != nil && *values <= maxValues && depth < maxDepth {
			countProtobuf(data, inner, depth+1, values)
		}
	})
}

// messageTypes caches protobufFields by type.
var messageTypes sync.Map

// protobufFields are the types of a message's fields that are messages, or lists of them, by their numbers.
func protobufFields(of reflect.Type) map[protowire.Number]reflect.Type {
	if cached, ok := messageTypes.Load(of); ok {
		return cached.(map[protowire.Number]reflect.Type)
	}
	fields := map[protowire.Number]reflect.Type{}
	for i := range of.NumField() {
		field := of.Field(i)
		parts := strings.Split(field.Tag.Get("protobuf"), ",")
		inner := field.Type
		for inner.Kind() == reflect.Slice || inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if len(parts) < 2 || inner.Kind() != reflect.Struct {
			continue
		}
		if number, err := strconv.Atoi(parts[1]); err == nil {
			fields[protowire.Number(number)] = inner
		}
	}
	messageTypes.Store(of, fields)
	return fields
}
