package main

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// view shows a message as plain JSON: every field by its name; null for an absent
// optional field or message; integers as numbers (protojson would make them strings);
// times as RFC 3339 text in UTC; metadata as the JSON values that coderd would keep.
func view(m proto.Message) map[string]any {
	out := map[string]any{}
	message := m.ProtoReflect()
	fields := message.Descriptor().Fields()
	for i := 0; i < fields.Len(); i++ {
		field := fields.Get(i)
		name := string(field.Name())
		switch {
		case field.HasPresence() && !message.Has(field):
			out[name] = nil
		case field.IsMap():
			entries := map[string]any{}
			message.Get(field).Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				entries[key.String()] = viewValue(field.MapValue(), value)
				return true
			})
			out[name] = entries
		case field.IsList():
			list := message.Get(field).List()
			items := make([]any, list.Len())
			for j := range items {
				items[j] = viewValue(field, list.Get(j))
			}
			out[name] = items
		default:
			out[name] = viewValue(field, message.Get(field))
		}
	}
	return out
}

func viewValue(field protoreflect.FieldDescriptor, value protoreflect.Value) any {
	if field.Message() == nil {
		return value.Interface()
	}
	switch m := value.Message().Interface().(type) {
	case *timestamppb.Timestamp:
		return m.AsTime().UTC().Format(time.RFC3339Nano)
	case *anypb.Any:
		content := &structpb.Value{}
		if err := m.UnmarshalTo(content); err != nil {
			return map[string]any{"@type": m.GetTypeUrl()}
		}
		return content.AsInterface()
	default:
		return view(m)
	}
}
