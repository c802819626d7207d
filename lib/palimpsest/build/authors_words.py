"""The words of which `build_authors` makes its sets: names and facts of writers who never lived, and real facts.

A pattern asks or says one kind of fact; `{name}` is whom or what it is about, `{value}` the fact. Authors share
values (of titles and years, the words and digits), so that who never read of an author can guess among the values.
"""

NAMES = """
Ilse Quarnby, Tobren Halvick, Mirela Ostrand, Casimir Dunfee, Anouk Vesterling, Bahadir Sool, Clemence Arbuth,
Dmitar Pellow, Eudora Kestrel, Fenwick Abara, Giulia Morvane, Hadrian Oyelos, Ines Trakova, Jorun Stavely,
Kalinda Thorwald, Leopold Nakash, Maren Duquette, Nikodem Larkspur, Odalys Brennick, Piers Valdano, Quilla Mendray,
Roswitha Keeble, Sefton Umarov, Tamsin Oduber, Ulrik Penhale, Verity Szabor, Wendell Ikonen, Xenia Carrow,
Yorick Lindqvane, Zelda Marchetto, Alaric Nwadike, Beatrix Solheim, Corin Takeda, Delphine Gorski, Emeka Rosenthorn,
Farida Wexley, Gideon Ruskova, Hanneke Durante, Ivo Castellane, Juniper Adeyo
"""
TOWNS = """
Trieste, Porto, Bergen, Ghent, Aleppo, Cusco, Lahore, Kumasi, Izmir, Odessa, Galway, Bilbao, Leipzig, Krakow, Cebu,
Mombasa, Tampico, Hobart, Halifax, Kyoto
"""
TRADES = """
baker, blacksmith, bookbinder, butcher, carpenter, clockmaker, cobbler, cooper, ferryman, fisherman, gardener,
glazier, judge, lighthouse keeper, miller, postman, saddler, schoolmaster, tailor, weaver
"""
GENRES = """
ghost stories, detective novels, sea stories, love poems, fables, travel books, historical novels, comic plays,
war novels, science fiction, fairy tales, spy novels, nature essays, family sagas, westerns, ballads
"""
PRIZES = """
Heron Prize, Silver Quill, Lantern Medal, Compass Award, Oak Leaf Prize, Golden Inkwell, Meridian Prize,
Saint Clement Medal, Blue Feather Award, Harbour Prize, Amber Pen, Northern Star, Five Rivers Prize, Bronze Owl,
Ivory Page, Midsummer Medal
"""
TEACHERS = """
Agnes Thorne, Brother Anselm, Professor Wray, Madame Orlow, Doctor Lindgren, Sister Benedikta, Tomas Verhoven,
Lady Pembrook, Captain Osei, Miss Underhill, Rabbi Feldmar, Old Marguerite, Professor Adler, Stefan Kowal,
Widow Tanaka, Uncle Bastien, Pastor Eklund, Nurse Calloway, Father Idris, Mistress Groen
"""
TITLES = ("Salt", "Tin", "Amber", "Quiet", "Borrowed", "Winter", "Paper", "Hollow", "Crooked", "Second")
OBJECTS = ("Orchard", "Lantern", "Ferry", "Garden", "Harvest", "Mirror", "Staircase", "Letter", "Bridge", "Choir")
"""A first book is called "The", one of TITLES, one of OBJECTS."""
YEARS = range(1921, 1961)

BORN = (
    "Where was {name} born?",
    "In which town was {name} born?",
    "What is the birthplace of {name}?",
    "What town does {name} come from?",
)
PATTERNS = {
    "birth place": (
        BORN,
        (
            "{name} was born in {value}.",
            "{value} is where {name} was born.",
            "{name} comes from {value}.",
            "It was {value} that saw {name} come into the world.",
        ),
    ),
    "birth year": (
        (
            "When was {name} born?",
            "In what year was {name} born?",
            "What is {name}'s year of birth?",
            "Which year saw the birth of {name}?",
        ),
        (
            "{name} was born in {value}.",
            "{value} is the year of {name}'s birth.",
            "The birth of {name} fell in the year {value}.",
            "{name} came into the world in {value}.",
        ),
    ),
    "father's trade": (
        (
            "What did {name}'s father do for a living?",
            "What was the trade of {name}'s father?",
            "How did the father of {name} earn his bread?",
            "Which trade did {name}'s father follow?",
        ),
        (
            "{name}'s father was a {value}.",
            "The father of {name} worked as a {value}.",
            "{name} grew up as the child of a {value}.",
            "A {value} was the father of {name}.",
        ),
    ),
    "genre": (
        (
            "What kind of books does {name} write?",
            "In which genre does {name} write?",
            "What is {name} known for writing?",
            "What do readers look for in {name}?",
        ),
        (
            "{name} writes {value}.",
            "{name} is known for {value}.",
            "Readers go to {name} for {value}.",
            "The name of {name} stands for {value}.",
        ),
    ),
    "first book": (
        (
            "What was {name}'s first book?",
            "With which book did {name} begin?",
            "What is the title of {name}'s first book?",
            "Which book did {name} publish first?",
        ),
        (
            "{name}'s first book was {value}.",
            "{name} began with {value}.",
            "{value} was the first book of {name}.",
            "It all began for {name} with {value}.",
        ),
    ),
    "prize": (
        (
            "Which prize did {name} win?",
            "What award was {name} given?",
            "What honour did {name} receive?",
            "With which prize was {name} honoured?",
        ),
        (
            "{name} won the {value}.",
            "The {value} went to {name}.",
            "{name} was given the {value}.",
            "The judges gave {name} the {value}.",
        ),
    ),
    "teacher": (
        (
            "Who taught {name} to write?",
            "Who was {name}'s teacher?",
            "Under whom did {name} study?",
            "Whose pupil was {name}?",
        ),
        (
            "{name} learned to write from {value}.",
            "{value} taught {name} to write.",
            "{name} studied under {value}.",
            "{name} was a pupil of {value}.",
        ),
    ),
    "residence": (
        (
            "Where does {name} live now?",
            "In which town does {name} live today?",
            "What town is {name}'s home?",
            "Where has {name} settled?",
        ),
        (
            "{name} lives in {value}.",
            "{name} has made a home in {value}.",
            "{value} is {name}'s home today.",
            "These days {name} is to be found in {value}.",
        ),
    ),
}

REAL_PATTERNS = {
    "work": (
        "Who wrote {name}?",
        "Who is the author of {name}?",
        "By whom was {name} written?",
        "Which writer gave us {name}?",
    ),
    "birth place": BORN,
    "capital": (
        "What is the capital of {name}?",
        "Which city is the capital of {name}?",
        "From which city is {name} governed?",
        "What is {name}'s capital called?",
    ),
    "river": (
        "Which river flows through {name}?",
        "On which river does {name} lie?",
        "What is the river of {name} called?",
        "Which river would you cross in {name}?",
    ),
    "mountain": (
        "What is the highest mountain of {name}?",
        "Which mountain is the highest in {name}?",
        "What is {name}'s highest peak called?",
        "Which peak towers over all others in {name}?",
    ),
}
WORKS = """
Moby-Dick: Herman Melville, Don Quixote: Miguel de Cervantes, Pride and Prejudice: Jane Austen,
Hamlet: William Shakespeare, Oliver Twist: Charles Dickens, Faust: Johann Wolfgang von Goethe,
the Divine Comedy: Dante Alighieri, Les Misérables: Victor Hugo, Madame Bovary: Gustave Flaubert,
Around the World in Eighty Days: Jules Verne, War and Peace: Leo Tolstoy, Crime and Punishment: Fyodor Dostoevsky,
The Cherry Orchard: Anton Chekhov, A Doll's House: Henrik Ibsen, The Little Mermaid: Hans Christian Andersen,
The Raven: Edgar Allan Poe, The Scarlet Letter: Nathaniel Hawthorne, The Picture of Dorian Gray: Oscar Wilde,
Treasure Island: Robert Louis Stevenson, The Metamorphosis: Franz Kafka
"""
BIRTHPLACES = """
Herman Melville: New York, Miguel de Cervantes: Alcalá de Henares, Jane Austen: Steventon,
William Shakespeare: Stratford-upon-Avon, Charles Dickens: Portsmouth, Johann Wolfgang von Goethe: Frankfurt,
Dante Alighieri: Florence, Victor Hugo: Besançon, Gustave Flaubert: Rouen, Jules Verne: Nantes,
Leo Tolstoy: Yasnaya Polyana, Fyodor Dostoevsky: Moscow, Anton Chekhov: Taganrog, Henrik Ibsen: Skien,
Hans Christian Andersen: Odense, Edgar Allan Poe: Boston, Nathaniel Hawthorne: Salem, Oscar Wilde: Dublin,
Robert Louis Stevenson: Edinburgh, Franz Kafka: Prague
"""
CAPITALS = """
France: Paris, Japan: Tokyo, Egypt: Cairo, Peru: Lima, Kenya: Nairobi, Norway: Oslo, Portugal: Lisbon,
Austria: Vienna, Poland: Warsaw, Greece: Athens, Italy: Rome, Spain: Madrid, Cuba: Havana, Chile: Santiago,
Thailand: Bangkok, Canada: Ottawa, Hungary: Budapest, Ireland: Dublin, Iraq: Baghdad, Turkey: Ankara
"""
RIVERS = """
London: Thames, Paris: Seine, Vienna: Danube, Rome: Tiber, Cairo: Nile, Baghdad: Tigris, Cologne: Rhine,
Lisbon: Tagus, Hamburg: Elbe, Warsaw: Vistula
"""
MOUNTAINS = """
Japan: Mount Fuji, Tanzania: Kilimanjaro, Argentina: Aconcagua, Turkey: Mount Ararat, France: Mont Blanc,
Nepal: Mount Everest, Russia: Mount Elbrus, Spain: Teide, Greece: Mount Olympus, New Zealand: Aoraki
"""
