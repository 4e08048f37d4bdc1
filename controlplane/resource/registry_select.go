package resource

import (
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/skep-io/skep/controlplane/scheme"
	"github.com/skep-io/skep/controlplane/watchcache"
)

const (
	fieldName      = watchcache.ByName
	fieldNamespace = watchcache.ByNamespace
)

// selector is what a list or a watch selects, in the form in which it is quickest to
// test.
type selector struct {
	namespace string
	name      string // set if metadata.name must be this
	// trigger is the index entry that holds all that can match, nil if there is none.
	trigger *watchcache.Trigger
	tests   []func(*watchcache.Object) bool
}

// selectorFor checks the field selector's names and compiles both selectors.
func (k *Kind) selectorFor(ns string, byLabel labels.Selector, byField fields.Selector) (*selector, error) {
	byField, err := k.storedFields(byField)
	if err != nil {
		return nil, err
	}
	if k.stored != nil {
		k = k.stored
	}
	s := &selector{namespace: ns}
	if !k.Namespaced {
		s.namespace = ""
	}
	if s.namespace != "" {
		s.trigger = &watchcache.Trigger{Index: fieldNamespace, Value: s.namespace}
	}
	if byField != nil && !byField.Empty() {
		if err := k.addFields(s, byField.Requirements()); err != nil {
			return nil, err
		}
	}
	if byLabel != nil && !byLabel.Empty() {
		s.tests = append(s.tests, func(o *watchcache.Object) bool {
			return byLabel.Matches(labels.Set(o.Value().GetLabels()))
		})
	}
	return s, nil
}

func (k *Kind) addFields(s *selector, requirements fields.Requirements) error {
	var rest fields.Requirements
	for _, req := range requirements {
		if !k.Selectable(req.Field) {
			return k.unknownField(req.Field)
		}
		equal := req.Operator == selection.Equals || req.Operator == selection.DoubleEquals
		values := k.Indexes[req.Field]
		switch {
		case req.Field == fieldName && equal:
			s.name = req.Value
			s.trigger = &watchcache.Trigger{Index: fieldName, Value: req.Value}
			s.tests = append(s.tests, func(o *watchcache.Object) bool { return o.Value().GetName() == req.Value })
		case equal && req.Value != "" && values != nil && s.name == "":
			// An index need not have the objects whose field is empty.
			s.trigger = &watchcache.Trigger{Index: req.Field, Value: req.Value}
			s.tests = append(s.tests, func(o *watchcache.Object) bool { return slices.Contains(values(o.Value()), req.Value) })
		default:
			rest = append(rest, req)
		}
	}
	if len(rest) > 0 {
		s.tests = append(s.tests, func(o *watchcache.Object) bool { return k.matches(rest, o.Value()) })
	}
	return nil
}

func (k *Kind) matches(requirements fields.Requirements, obj Object) bool {
	var set fields.Set
	if k.Fields != nil {
		set = k.Fields(obj)
	}
	for _, req := range requirements {
		value := set[req.Field]
		switch req.Field {
		case fieldName:
			value = obj.GetName()
		case fieldNamespace:
			value = obj.GetNamespace()
		}
		if (value == req.Value) == (req.Operator == selection.NotEquals) {
			return false
		}
	}
	return true
}

// Selectable says whether objects can be selected by a field.
func (k *Kind) Selectable(name string) bool {
	if k.stored != nil {
		_, _, err := scheme.Scheme.ConvertFieldLabel(k.GVK, name, "")
		return err == nil
	}
	if name == fieldName || name == fieldNamespace && k.Namespaced {
		return true
	}
	return k.Fields != nil && k.Fields(k.New()).Has(name)
}

func (k *Kind) unknownField(name string) error {
	if k.Fields == nil {
		return apierrors.NewBadRequest(fmt.Sprintf("%q is not a known field selector: only %q, %q", name, fieldName, fieldNamespace))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("field label not supported: %s", name))
}

// matches says whether an object of the right namespace is selected.
func (s *selector) matches(o *watchcache.Object) bool {
	for _, test := range s.tests {
		if !test(o) {
			return false
		}
	}
	return true
}

// everything says that only the namespace is selected.
func (s *selector) everything() bool { return len(s.tests) == 0 }
