package runtime

import "testing"

func TestCredentialsOfTheLongestScope(t *testing.T) {
	credentials := Credentials{
		{Scope: "registry.example", Username: "all"},
		{Scope: "registry.example/team", Username: "team"},
		{Scope: "index." + defaultRegistry, Username: "default"},
	}
	for _, c := range []struct{ host, repository, want string }{
		{"registry.example", "other/app", "all"},
		{"registry.example", "team/app", "team"},
		{"registry.example", "team", "team"},
		{"registry.example", "teams/app", "all"},
		{defaultRegistry, "library/app", "default"},
		{"elsewhere.example", "team/app", ""},
	} {
		got, found := credentials.find(c.host, c.repository)
		if got.Username != c.want || found != (c.want != "") {
			t.Errorf("%s/%s: %q, %v, want %q", c.host, c.repository, got.Username, found, c.want)
		}
	}
}
