package resource

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
)

// tables prints objects with Kubernetes' own columns.
var tables = printers.NewTableGenerator().With(printersinternal.AddHandlers)

// Table is the printed form of objects: one row each, in order, with what
// opts.IncludeObject asks for beside it (metadata, if it does not say). With
// opts.NoHeaders the column definitions are left out, as in all but the first
// event of a watch.
func (k *Kind) Table(objs []Object, opts metav1.TableOptions) (*metav1.Table, error) {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{}, Rows: make([]metav1.TableRow, 0, len(objs))}
	table.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("Table"))
	if len(objs) == 0 {
		headers, err := k.rows(k.New())
		if err != nil {
			return nil, err
		}
		table.ColumnDefinitions = headers.ColumnDefinitions
	}
	for _, obj := range objs {
		printed, err := k.rows(obj)
		if err != nil {
			return nil, err
		}
		for i := range printed.Rows {
			if err := include(&printed.Rows[i], obj, k, opts.IncludeObject); err != nil {
				return nil, err
			}
		}
		table.ColumnDefinitions = printed.ColumnDefinitions
		table.Rows = append(table.Rows, printed.Rows...)
	}
	if opts.NoHeaders {
		table.ColumnDefinitions = []metav1.TableColumnDefinition{}
	}
	return table, nil
}

func (k *Kind) rows(obj Object) (*metav1.Table, error) {
	if k.Unstructured {
		return unstructuredRows(obj), nil
	}
	in, err := k.internal(obj)
	if err != nil {
		return nil, fmt.Errorf("print: %w", err)
	}
	printed, err := tables.GenerateTable(in, printers.GenerateOptions{Wide: true})
	if err != nil {
		return nil, fmt.Errorf("print %s %q: %w", k.GVK.Kind, obj.GetName(), err)
	}
	return printed, nil
}

// include adds to a row its object, in the form that was asked for.
func include(row *metav1.TableRow, obj Object, k *Kind, policy metav1.IncludeObjectPolicy) error {
	switch policy {
	case metav1.IncludeNone:
		row.Object = runtime.RawExtension{}
	case metav1.IncludeMetadata, "":
		partial := meta.AsPartialObjectMetadata(obj)
		partial.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
		row.Object = runtime.RawExtension{Object: partial}
	case metav1.IncludeObject:
		obj, err := k.In(obj)
		if err != nil {
			return err
		}
		if obj.GetObjectKind().GroupVersionKind().Empty() {
			obj = obj.DeepCopyObject().(Object) // objects from caches are shared
			obj.GetObjectKind().SetGroupVersionKind(k.GVK)
		}
		row.Object = runtime.RawExtension{Object: obj}
	default:
		return fmt.Errorf("unrecognized includeObject value: %q", policy)
	}
	return nil
}
