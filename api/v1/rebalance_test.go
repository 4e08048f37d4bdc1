package v1

import (
	"net/url"
	"reflect"
	"testing"
)

func TestRebalanceQuery(t *testing.T) {
	for _, want := range []RebalanceQuery{{}, {Namespace: "shop", Except: []string{"shop/deployment/a b", "shop/replicaset/c&d"}, Limit: 7}} {
		values, err := url.ParseQuery(want.Values().Encode())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := RebalanceQueryOf(values); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v (%v), want %+v", got, err, want)
		}
	}
	for _, limit := range []string{"many", "-1"} {
		if _, err := RebalanceQueryOf(url.Values{"limit": {limit}}); err == nil {
			t.Errorf("limit=%s is taken", limit)
		}
	}
}
