package api

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// checkBytes finds bytes fields in JSON that hold something else than padded base64.
//
// Protobuf's own parser takes base64 without padding. Many a plain text, "cart42" for one,
// is that too, and would silently name another key. Text whose length is a multiple of
// four can still pass for base64; nothing can tell that from bytes that were encoded.
//
// What is no valid JSON for the message is not looked at: the parser says more about it.
func checkBytes(text json.RawMessage, message protoreflect.MessageDescriptor) error {
	var fields map[string]json.RawMessage
	_ = json.Unmarshal(text, &fields) // no fields, then
	for name, value := range fields {
		field := message.Fields().ByJSONName(name)
		if field == nil {
			field = message.Fields().ByTextName(name)
		}
		if field == nil || field.IsMap() {
			continue
		}
		values := []json.RawMessage{value}
		if field.IsList() && json.Unmarshal(value, &values) != nil {
			continue
		}
		for _, value := range values {
			if err := checkField(value, field); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkField(value json.RawMessage, field protoreflect.FieldDescriptor) error {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return checkBytes(value, field.Message())
	case protoreflect.BytesKind:
		var text string
		if json.Unmarshal(value, &text) == nil && !isPaddedBase64(text) {
			return fmt.Errorf("field %q: %.40q is not base64; in JSON, bytes are base64 with padding; try: %q for that text",
				field.JSONName(), text, base64.StdEncoding.EncodeToString([]byte(text[:min(len(text), 40)])))
		}
	}
	return nil
}

// isPaddedBase64 accepts both alphabets, as protobuf's JSON does.
func isPaddedBase64(s string) bool {
	if len(s)%4 != 0 {
		return false
	}
	body := strings.TrimRight(s, "=")
	if len(s)-len(body) > 2 {
		return false
	}
	for i := range len(body) {
		switch c := body[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '+', c == '/', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
